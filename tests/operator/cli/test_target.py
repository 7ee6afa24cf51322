"""Which cluster a command means, by what is there."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from threadcluster_operator.cli.target import (
    ClusterOptions,
    KubernetesTarget,
    LocalTarget,
    NoTarget,
    Platform,
    flags_of,
    resolve_target,
)
from threadcluster_operator.local.data_dir import DataDir

HEAD = "apiVersion: threadcluster.io/v1alpha1\nkind: ThreadCluster\nmetadata: {name: NAME}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def cluster(here: Path, folder: str, name: str | None = None) -> DataDir:
    """A local cluster that does not run."""
    place = DataDir(here / ".threadcluster" / folder)
    place.make()
    place.cluster_yaml.write_text(HEAD.replace("NAME", name or folder))
    return place


@pytest.fixture
def running(here: Path) -> Iterator[DataDir]:
    """A cluster `demo` whose supervisor lives."""
    place = cluster(here, "demo")
    place.lock()
    yield place
    assert place._lock_fd is not None
    os.close(place._lock_fd)


def local(options: ClusterOptions, platform: Platform | None = None, **environment: str) -> str:
    """The name of the local cluster that is meant."""
    target = resolve_target(options, platform, environment)
    assert isinstance(target, LocalTarget), target
    return target.place.path.name


def test_the_running_cluster_is_meant(here: Path, running: DataDir) -> None:
    """Whatever else lies there, and whatever kubeconfig there is."""
    cluster(here, "chat")
    (here / "config").touch()
    assert local(ClusterOptions()) == local(ClusterOptions(), KUBECONFIG=str(here / "config")) == "demo"
    assert local(ClusterOptions(name="chat")) == "chat"


def test_several_running_clusters_are_listed(here: Path, running: DataDir) -> None:
    """None of them is taken; a name says which one, and the same directory under another name is found as well."""
    other = cluster(here, "folder", "chat")
    other.lock()
    try:
        with pytest.raises(
            NoTarget, match="several clusters are running here: say with --name which one: demo, folder"
        ):
            resolve_target(ClusterOptions(), None, {})
        assert local(ClusterOptions(name="demo")) == "demo"
        assert local(ClusterOptions(name="chat")) == "folder"
    finally:
        assert other._lock_fd is not None
        os.close(other._lock_fd)


def test_a_single_cluster_is_meant_though_it_does_not_run(here: Path) -> None:
    """The command then says so."""
    cluster(here, "chat")
    assert local(ClusterOptions()) == "chat"


def test_without_a_cluster_here_the_kubeconfig_decides(here: Path) -> None:
    """With a name or without; for a command of the local platform it does not count."""
    (here / ".kube").mkdir()
    (here / ".kube" / "config").touch()
    for options in (ClusterOptions(), ClusterOptions(name="chat")):
        assert resolve_target(options, None, {}) == KubernetesTarget(options)
        with pytest.raises(NoTarget):
            resolve_target(options, Platform.LOCAL, {})
    assert resolve_target(ClusterOptions(), None, {"KUBECONFIG": "nowhere:.kube/config"})
    with pytest.raises(NoTarget):
        resolve_target(ClusterOptions(), None, {"KUBECONFIG": "nowhere"})
    assert isinstance(resolve_target(ClusterOptions(), None, {"KUBERNETES_SERVICE_HOST": "x"}), KubernetesTarget)


def test_an_option_of_one_platform_decides(running: DataDir) -> None:
    """Though a local cluster runs."""
    for options in (ClusterOptions(context="a"), ClusterOptions(namespace="a"), ClusterOptions(kubeconfig="a")):
        assert resolve_target(options, None, {}) == KubernetesTarget(options)
        with pytest.raises(click.UsageError):
            resolve_target(options._replace(data_dir=running.path), None, {})
    assert isinstance(resolve_target(ClusterOptions(), Platform.KUBERNETES, {}), KubernetesTarget)


def test_a_command_that_is_shown_selects_the_same_cluster() -> None:
    """With every option, quoted for a shell."""
    assert flags_of(ClusterOptions(data_dir=Path("a b"))) == " --data-dir 'a b'"
    assert flags_of(ClusterOptions(None, "chat", "kind", "here", "k")) == (
        " --name chat --context kind --namespace here --kubeconfig k"
    )
