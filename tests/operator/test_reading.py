"""A resource's file: the cluster, and the Secrets that it refers to, each refusal with its place."""

from pathlib import Path

import pytest
from threadcluster_operator.model import ResourceRefused, parse_resources, read_resources

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
    with pytest.raises(ResourceRefused, match=message):
        parse_resources(text, "file").database_url()


def test_a_file_is_read_and_named(tmp_path: Path) -> None:
    """Also when it is not there."""
    path = tmp_path / "chat.yaml"
    with pytest.raises(ResourceRefused, match=r"chat\.yaml: No such file"):
        read_resources(path)
    path.write_text(CLUSTER)
    assert read_resources(path).cluster.name == "chat"
