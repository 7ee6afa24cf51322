"""Which cluster a command means: on which platform, and where; found once a process.

The platform is chosen by what is there.  An option that only one platform has decides; else a local cluster in
`.threadcluster` is meant, and where there is none, the current context of the kubeconfig.
"""

import os
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import click

from threadcluster_operator.cli.hints import did_you_mean
from threadcluster_operator.local.data_dir import ROOT, DataDir


class Platform(StrEnum):
    """Where clusters run."""

    LOCAL = "local"
    KUBERNETES = "Kubernetes"


class ClusterOptions(NamedTuple):
    """The options that select a cluster; None for an option that is left out."""

    data_dir: Path | None = None
    name: str | None = None
    context: str | None = None
    namespace: str | None = None
    kubeconfig: str | None = None


class LocalTarget(NamedTuple):
    """A data directory; whether a cluster runs on it is seen by asking."""

    place: DataDir


class KubernetesTarget(NamedTuple):
    """A selection of a ThreadCluster; kubeconfig, context and namespace may still be those that kubectl would take."""

    options: ClusterOptions


class NoTarget(Exception):
    """There is no cluster, or it is not clear which one is meant; the message says what there is."""


_KUBERNETES_OPTIONS: Final = "--context, --namespace or --kubeconfig"
REMOTE_HINT: Final = f"for one on Kubernetes give {_KUBERNETES_OPTIONS}"


def resolve_target(
    options: ClusterOptions, platform: Platform | None, environment: Mapping[str, str]
) -> LocalTarget | KubernetesTarget:
    """The cluster that is meant; ``platform`` when the command is for one platform alone.

    Raises `NoTarget`, and `click.UsageError` for options that exclude each other.
    """
    remote = (options.context, options.namespace, options.kubeconfig) != (None, None, None)
    if options.data_dir is not None and (remote or platform is Platform.KUBERNETES):
        raise click.UsageError("--data-dir is for a local cluster; the other options that were given, for Kubernetes")
    if platform is Platform.LOCAL and remote:
        raise click.UsageError(f"{_KUBERNETES_OPTIONS} is for Kubernetes; this command is for a local cluster")
    if options.data_dir is not None:
        return LocalTarget(_named(DataDir(options.data_dir), options.name))
    if remote or platform is Platform.KUBERNETES:
        return KubernetesTarget(options)
    clusters = local_clusters()
    if options.name is not None:
        return _by_name(options, clusters, platform, environment)
    if not clusters and platform is None and kubeconfig_exists(environment):
        return KubernetesTarget(options)
    return LocalTarget(_the_only(clusters, platform))


def local_clusters() -> dict[str, DataDir]:
    """The clusters in `.threadcluster`, by name."""
    folders = sorted(path for path in ROOT.glob("*") if path.is_dir()) if ROOT.is_dir() else []
    return {path.name: DataDir(path) for path in folders}


def kubeconfig_exists(environment: Mapping[str, str]) -> bool:
    """Whether there is a way to a Kubernetes cluster, as kubectl looks for one."""
    files = environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return "KUBERNETES_SERVICE_HOST" in environment or any(Path(each).exists() for each in files.split(os.pathsep))


def _named(place: DataDir, name: str | None) -> DataDir:
    """The data directory, whose cluster must have the name that is given beside it."""
    found = place.cluster_name() if name is not None else None
    if found not in (None, name):
        raise NoTarget(f"{place.path} is the data directory of {found!r}, not of {name!r}")
    return place


def _by_name(
    options: ClusterOptions, clusters: Mapping[str, DataDir], platform: Platform | None, environment: Mapping[str, str]
) -> LocalTarget | KubernetesTarget:
    name = str(options.name)
    found = clusters.get(name) or next((each for each in clusters.values() if each.cluster_name() == name), None)
    if found is not None:
        return LocalTarget(found)
    if platform is None and kubeconfig_exists(environment):
        return KubernetesTarget(options)
    known = f"there are {', '.join(clusters)}{did_you_mean(name, clusters)}" if clusters else "there is none"
    raise NoTarget(f"no cluster {name!r} in {ROOT.absolute()}: {known}" + ("" if platform else f"; {REMOTE_HINT}"))


def _the_only(clusters: Mapping[str, DataDir], platform: Platform | None) -> DataDir:
    """The only cluster that runs; where none does, the only one there is."""
    running = [name for name, place in clusters.items() if place.is_locked() or place.worker_ports()]
    if len(running) > 1:
        raise NoTarget(f"several clusters are running here: say with --name which one: {', '.join(running)}")
    if running:
        return clusters[running[0]]
    if len(clusters) > 1:
        raise NoTarget(f"no cluster is running here; say with --name which one is meant: {', '.join(clusters)}")
    if not clusters:
        hint = "" if platform else f"; {REMOTE_HINT}"
        raise NoTarget(f"no cluster is running in {ROOT.absolute()}; `threadcluster local up` starts one{hint}")
    return next(iter(clusters.values()))


def flags_of(options: ClusterOptions) -> str:
    """The options as they are typed, for a command that is shown to the user."""
    given = [(name.replace("_", "-"), value) for name, value in options._asdict().items() if value is not None]
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given)
