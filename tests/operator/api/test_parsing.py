"""A resource's file: the cluster, and the Secrets that it refers to, each refusal with its place."""

from pathlib import Path

import pytest
from threadcluster_operator.api import InvalidResource, InvalidSpec, parse_resources, parse_spec, read_resources

CLUSTER = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {name: chat}
spec: {database: {urlSecretKeyRef: {name: db}}}
"""


def with_secret(secret: str) -> str:
    """The cluster and a Secret."""
    return f"{CLUSTER}---\nkind: Secret\n{secret}"


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("metadata: {name: db}\nstringData: {url: postgresql://x}", id="text"),
        pytest.param("metadata: {name: db}\ndata: {url: cG9zdGdyZXNxbDovL3g=}", id="base64"),
        pytest.param("metadata: {name: db}\ndata: {url: eA==}\nstringData: {url: postgresql://x}", id="text-wins"),
    ],
)
def test_the_database_is_where_the_secret_says(secret: str) -> None:
    """As Kubernetes itself merges the two."""
    assert parse_resources(with_secret(secret), "file").database_url() == "postgresql://x"


def test_without_a_database_there_is_no_url() -> None:
    """The local platform then brings its own."""
    text = CLUSTER.replace("spec: {database: {urlSecretKeyRef: {name: db}}}", "")
    resources = parse_resources(text, "file")
    assert resources.database_url() is None
    assert resources.cluster.name == "chat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(CLUSTER, r"urlSecretKeyRef\.name: the file has no Secret 'db'", id="no-secret"),
        pytest.param(
            with_secret("metadata: {name: db}\nstringData: {dsn: x}"),
            r"urlSecretKeyRef\.key: Secret 'db' has no key 'url'",
            id="no-key",
        ),
        pytest.param(
            with_secret("metadata: {name: db}\ndata: {url: '???'}"), "document 2: data.url: not base64", id="not-base64"
        ),
        pytest.param(
            with_secret("metadata: {name: db}\nstringData: {url: 1}"),
            r"document 2: stringData\.url: a text is wanted",
            id="not-text",
        ),
        pytest.param(with_secret("metadata: db"), r"metadata\.name: a Secret needs a name", id="no-name"),
        pytest.param(f"{CLUSTER}---\nkind: Pod", "kind: 'Pod' is neither ThreadCluster nor Secret", id="other-kind"),
        pytest.param(f"{CLUSTER}---\n[1]", "kind: None is neither", id="no-object"),
        pytest.param("", "exactly one ThreadCluster is wanted, 0 found", id="empty"),
        pytest.param("{", "file: not YAML", id="not-yaml"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, message: str) -> None:
    """And with the reason."""
    with pytest.raises(InvalidResource, match=message):
        parse_resources(text, "file").database_url()


SECRET_TEXT = "hunter2"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f'url: "{SECRET_TEXT}', id="open quote"),
        pytest.param(f"url: *{SECRET_TEXT}", id="alias"),
        pytest.param(f"url: &{SECRET_TEXT} 1\n  b: &{SECRET_TEXT} 2", id="anchor twice"),
        pytest.param(f"url: !{SECRET_TEXT} x", id="tag"),
        pytest.param(f"url: a: {SECRET_TEXT}", id="two colons"),
        pytest.param(f"url: @{SECRET_TEXT}", id="reserved character"),
        pytest.param(f"url: {SECRET_TEXT}\tx\n\tb: 1", id="tab"),
        pytest.param(f'url: "\\q{SECRET_TEXT}"', id="escape"),
        pytest.param(f"url: [{SECRET_TEXT}", id="open list"),
        pytest.param(f"url: {SECRET_TEXT}\x01", id="control character"),
        pytest.param("url: 2026-99-99", id="no date"),
        pytest.param("url: " + "[" * 5000, id="nested"),
        pytest.param(f"? [{SECRET_TEXT}]\n  : 1", id="list as key"),
    ],
)
def test_a_yaml_error_shows_nothing_of_a_secret(line: str) -> None:
    """The error has the fault and its place, and no value."""
    with pytest.raises(InvalidResource, match=r"^file: not YAML: ") as caught:
        parse_resources(with_secret(f"metadata: {{name: db}}\nstringData:\n  {line}"), "file")
    assert SECRET_TEXT not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("{", "line 1, column 2: expected the node content, but found …"),
        ("a: *hunter2", "line 1, column 4: found undefined alias …"),
        ("a: &x 1\nb: &x 2", "line 2, column 4: second occurrence"),
        ("a: \x01", "special characters are not allowed"),
        ("a: @b", "line 1, column 4: found character … that cannot start any token"),
    ],
)
def test_a_yaml_error_says_fault_and_place(text: str, failure: str) -> None:
    """With … for each text in quotation marks; a character that no YAML may have is found before lines are counted."""
    with pytest.raises(InvalidResource) as caught:
        parse_resources(text, "file")
    assert str(caught.value) == f"file: not YAML: {failure}"


def test_failures_are_one_a_line() -> None:
    """With the document, the field, and what was given where that is the mistake."""
    with pytest.raises(InvalidResource) as caught:
        parse_resources(CLUSTER.replace("spec: {", "spec: {shards: 0, colour: red, "), "file")
    assert str(caught.value).splitlines() == [
        "file, document 1: spec.shards: should be greater than or equal to 1 (given: 0)",
        "file, document 1: spec.colour: unknown field",
    ]


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_the_values_of_a_secret_have_keys(field: str) -> None:
    """A list is refused."""
    with pytest.raises(InvalidResource, match=f"{field}: keys with values are wanted"):
        parse_resources(with_secret(f"metadata: {{name: db}}\n{field}: [a]"), "file")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """With the byte."""
    path = tmp_path / "chat.yaml"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InvalidResource, match=r"chat\.yaml: not UTF-8 text, from byte 3 on"):
        read_resources(path)


def test_a_file_is_read_and_named(tmp_path: Path) -> None:
    """Also when it is not there."""
    path = tmp_path / "chat.yaml"
    with pytest.raises(InvalidResource, match=r"chat\.yaml: No such file"):
        read_resources(path)
    path.write_text(CLUSTER)
    assert read_resources(path).cluster.name == "chat"


TWICE = {
    "field": (CLUSTER.replace("spec:", "kind: ThreadCluster\nspec:"), "line 5: 'kind' is given twice, first in line 3"),
    "within": (
        "spec:\n  replicas: 2\n  shards: 4\n  replicas: 3\n",
        "line 4: 'replicas' is given twice, first in line 2",
    ),
    "one line": ("spec: {replicas: 2, replicas: 2}", "line 1: 'replicas' is given twice, first in line 1"),
    "quoted": ("a: 1\n'a': 2", "line 2: 'a' is given twice, first in line 1"),
    "in a list": ("a:\n  - b: 1\n    b: 2", "line 3: 'b' is given twice, first in line 2"),
    "second document": (f"{CLUSTER}---\nkind: Secret\nkind: Secret", "line 8: 'kind' is given twice, first in line 7"),
}


@pytest.mark.parametrize(("text", "failure"), TWICE.values(), ids=TWICE.keys())
def test_a_key_that_is_given_twice_is_refused_with_its_line(text: str, failure: str) -> None:
    """PyYAML keeps the last one in silence: half of a file would be without effect."""
    with pytest.raises(InvalidResource) as caught:
        parse_resources(text, "file")
    assert str(caught.value) == f"file: {failure}"


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: {<<: *x, b: 2}", "{a: 1, 1: 2}", "{1: a, '1': b}", "? [1]\n: 2"])
def test_other_keys_are_no_duplicates(text: str) -> None:
    """A key that overrides a merged one, and keys of two types; the text is then refused for what it is."""
    with pytest.raises(InvalidResource, match=r"kind: None is neither|not YAML"):
        parse_resources(text, "file")


MEANT = {
    "misspelled": ("{replica: 2}", "spec.replica: unknown field; did you mean replicas?"),
    "another case": ("{Replicas: 2}", "spec.Replicas: unknown field; did you mean replicas?"),
    "with an underscore": (
        "{rebalance: {max_concurrent_moves: 2}}",
        "spec.rebalance.max_concurrent_moves: unknown field; did you mean maxConcurrentMoves?",
    ),
    "in a list": (
        "{rebalance: {pins: [{shard: 1, worker: a, workers: b}]}}",
        "spec.rebalance.pins.0.workers: unknown field; did you mean worker?",
    ),
    "at another depth": (
        "{idleSeconds: 3}",
        "spec.idleSeconds: unknown field; did you mean spec.worker.passivation.idleSeconds?",
    ),
    "nothing alike": ("{colour: red}", "spec.colour: unknown field"),
    "value in another case": (
        "{rebalance: {mode: auto}}",
        "spec.rebalance.mode: Unsupported value, supported are 'Auto', 'Manual' or 'Paused' (given: 'auto');"
        " did you mean Auto?",
    ),
    "value of another type": ("{replicas: two}", "spec.replicas: must be of type integer (given: 'two')"),
    "number as a text": ("{replicas: '2'}", "spec.replicas: must be of type integer (given: '2')"),
    "part as a list": ("{rebalance: [1]}", "spec.rebalance: must be of type object (given: [1])"),
    "item of a map": (
        "{podTemplate: {metadata: {labels: {a: 1}}}}",
        "spec.podTemplate.metadata.labels.a: must be of type string (given: 1)",
    ),
}


@pytest.mark.parametrize(("spec", "failure"), MEANT.values(), ids=MEANT.keys())
def test_a_wrong_field_is_named_with_the_one_that_may_be_meant(spec: str, failure: str) -> None:
    """In the words of the API server."""
    with pytest.raises(InvalidResource) as caught:
        parse_resources(CLUSTER.replace("{database: {urlSecretKeyRef: {name: db}}}", spec), "file")
    assert str(caught.value) == f"file, document 1: {failure}"


def test_the_kind_that_may_be_meant() -> None:
    """A misspelled kind is one of two."""
    with pytest.raises(InvalidResource, match=r"'threadcluster' is neither .*; did you mean ThreadCluster\?"):
        parse_resources("kind: threadcluster", "file")


def test_an_unknown_field_of_the_api_names_no_other() -> None:
    """`parse_spec` ignores it; a field that is wrong has its path from spec on."""
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(
            {"spec": {"colour": "red", "shards": "x", "image": "a", "database": {"urlSecretKeyRef": {"name": "b"}}}}
        )
    assert caught.value.failures == ["spec.shards: must be of type integer (given: 'x')"]
