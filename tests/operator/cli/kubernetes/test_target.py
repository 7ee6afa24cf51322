"""Which Kubernetes, namespace and cluster a command means."""

import json
from pathlib import Path

import pytest
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
from threadcluster_operator.cli.kubernetes.target import Place, find, place_of
from threadcluster_operator.cli.target import ClusterOptions
from threadcluster_operator.kube.client import Forbidden, KubeAccess

from tests.fakes.kube import InMemoryKube
from tests.operator.cli.kubernetes.objects import cluster

FORBIDDEN = Forbidden(403, "Forbidden", "not you")


def kubeconfig(path: Path, *, current: str | None, **namespaces: str | None) -> Path:
    """A file with a context for each namespace; one of them is the current one."""
    contexts = [
        {"name": name, "context": {"cluster": "c", "user": "u"} | ({} if value is None else {"namespace": value})}
        for name, value in namespaces.items()
    ]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": contexts,
    } | ({} if current is None else {"current-context": current})
    path.write_text(json.dumps(config))
    return path


def test_the_current_context_says_which_namespace(tmp_path: Path) -> None:
    """As for kubectl; one without a namespace means `default`, and what the user says goes before all."""
    file = str(kubeconfig(tmp_path / "config", current="a", a="chat", b=None))
    assert place_of(ClusterOptions(kubeconfig=file), {}) == Place(KubeAccess(file, "a"), "chat")
    assert place_of(ClusterOptions(kubeconfig=file, context="b"), {}) == Place(KubeAccess(file, "b"), "default")
    assert place_of(ClusterOptions(kubeconfig=file, context="b", namespace="other"), {}) == Place(
        KubeAccess(file, "b"), "other"
    )


def test_the_environment_names_the_kubeconfig_unless_one_is_given(tmp_path: Path) -> None:
    """It may name several files, of which the contexts are one list."""
    one = kubeconfig(tmp_path / "one", current="a", a="chat")
    two = kubeconfig(tmp_path / "two", current="b", b="talk")
    both = f"{one}:{two}"
    assert place_of(ClusterOptions(context="b"), {"KUBECONFIG": both}) == Place(KubeAccess(both, "b"), "talk")
    assert place_of(ClusterOptions(kubeconfig=str(two)), {"KUBECONFIG": str(one)}).namespace == "talk"


def test_the_users_own_kubeconfig_is_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    file = kubeconfig(tmp_path / ".kube" / "config", current="a", a="chat")
    assert place_of(ClusterOptions(), {}) == Place(KubeAccess(str(file), "a"), "chat")


def test_a_pod_uses_its_service_account() -> None:
    """Unless a kubeconfig or a context is named."""
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert place_of(ClusterOptions(namespace="chat"), inside) == Place(KubeAccess(), "chat")
    assert place_of(ClusterOptions(), inside).namespace == "default"


def test_a_missing_kubeconfig_is_reported(tmp_path: Path) -> None:
    """And how another one is given."""
    with pytest.raises(
        ClusterUnreachable, match=r"there is no kubeconfig .*nothing; give one with --kubeconfig or \$KUBECONFIG"
    ):
        place_of(ClusterOptions(kubeconfig=str(tmp_path / "nothing")), {})


def test_a_missing_context_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    """A typing error is seen at once."""
    file = kubeconfig(tmp_path / "config", current="a", a=None, b=None)
    with pytest.raises(ClusterUnreachable, match="has no context c; there are a, b"):
        place_of(ClusterOptions(kubeconfig=str(file), context="c"), {})


def test_a_kubeconfig_without_a_current_context_asks_for_one(tmp_path: Path) -> None:
    """Any of its contexts can still be named."""
    file = str(kubeconfig(tmp_path / "config", current=None, a="chat"))
    with pytest.raises(ClusterUnreachable, match="has no current context; give one with --context"):
        place_of(ClusterOptions(kubeconfig=file), {})


def test_a_kubeconfig_that_is_no_yaml_is_reported(tmp_path: Path) -> None:
    """By its name."""
    (tmp_path / "config").write_text("{")
    with pytest.raises(ClusterUnreachable, match="config cannot be read"):
        place_of(ClusterOptions(kubeconfig=str(tmp_path / "config")), {})


async def test_the_only_cluster_needs_no_name() -> None:
    """Several do, and are listed."""
    assert (await find(InMemoryKube(cluster("a")), "here", None))["metadata"]["name"] == "a"
    with pytest.raises(ClusterUnreachable, match="several ThreadClusters; say with --name which one: a, b"):
        await find(InMemoryKube(cluster("b"), cluster("a")), "here", None)


async def test_a_namespace_without_clusters_is_reported() -> None:
    """With the namespace, which may be the wrong one."""
    with pytest.raises(ClusterNotFound, match="no ThreadCluster in namespace here"):
        await find(InMemoryKube(), "here", None)


async def test_a_missing_name_is_reported_with_the_existing_ones() -> None:
    """A user without the right to list still gets the error that the cluster is missing."""
    shelf = InMemoryKube(cluster("a"), cluster("b"))
    with pytest.raises(ClusterNotFound, match="no ThreadCluster c in namespace here; there are a, b"):
        await find(shelf, "here", "c")
    shelf.fault = lambda verb, _: FORBIDDEN if verb == "list" else None
    with pytest.raises(ClusterNotFound, match=r"no ThreadCluster c in namespace here$"):
        await find(shelf, "here", "c")
    assert (await find(shelf, "here", "a"))["metadata"]["name"] == "a"
