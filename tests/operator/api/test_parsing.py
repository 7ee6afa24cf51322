"""A resource's file: the cluster, and the Secrets that it refers to, each refusal with its place."""

from pathlib import Path

import pytest
from threadcluster_operator.api import InvalidResource, parse_resources, read_resources

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
        "file, document 1: spec.shards: Input should be greater than or equal to 1 (given: 0)",
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
