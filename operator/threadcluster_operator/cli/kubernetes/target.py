"""Which Kubernetes, which namespace and which cluster a command means, found as kubectl finds it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from kubernetes.aio import config

from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
from threadcluster_operator.cli.operator import OWN_NAMESPACE_FILE
from threadcluster_operator.cli.target import ClusterOptions
from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import THREAD_CLUSTER, Forbidden, Kube, KubeAccess

DEFAULT_NAMESPACE: Final = "default"


class Place(NamedTuple):
    """A namespace of a Kubernetes, and the way there."""

    access: KubeAccess
    namespace: str

    def options(self, name: str) -> ClusterOptions:
        """The options that select a ThreadCluster there."""
        access = self.access
        return ClusterOptions(None, name, access.context, self.namespace, access.kubeconfig)

    def where(self, name: str | None) -> str:
        """Name and place of a ThreadCluster there, for people; without a name it is still to be found."""
        context, cluster = self.access.context, "" if name is None else f"ThreadCluster {name}, "
        return f"{cluster}namespace {self.namespace}, " + (
            "the cluster of this pod" if context is None else f"context {context}"
        )


def place_of(where: ClusterOptions, environment: Mapping[str, str]) -> Place:
    """The API server of the given kubeconfig, `$KUBECONFIG` or `~/.kube/config`; in a pod, that of its service account.

    Raises `ClusterUnreachable` when there is none, or none with that context.
    """
    given = where.kubeconfig or environment.get("KUBECONFIG") or None
    if given is None and where.context is None and "KUBERNETES_SERVICE_HOST" in environment:
        return Place(KubeAccess(), where.namespace or _own_namespace())
    file = given or str(Path.home() / ".kube" / "config")
    context = _context(file, where.context)
    return Place(KubeAccess(file, str(context["name"])), where.namespace or _namespace_of(context))


def _context(file: str, wanted: str | None) -> dict[str, Any]:  # as in the kubeconfig
    if not any(Path(each).exists() for each in file.split(os.pathsep)):
        raise ClusterUnreachable(f"there is no kubeconfig {file}; give one with --kubeconfig or $KUBECONFIG")
    try:
        contexts, current = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]  # theirs
    except (
        config.ConfigException,
        yaml.YAMLError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:
        # A file that is no text, or another document than a kubeconfig, fails anywhere in the library.
        if wanted is None and "current-context" in str(error):
            raise ClusterUnreachable(f"{file} has no current context; give one with --context") from error
        raise ClusterUnreachable(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if wanted is None:
        return dict(current)
    for each in contexts:
        if each["name"] == wanted:
            return dict(each)
    names = ", ".join(sorted(str(each["name"]) for each in contexts))
    raise ClusterUnreachable(f"{file} has no context {wanted}; there are {names}")


def _namespace_of(context: Mapping[str, Any]) -> str:
    return str(context["context"].get("namespace") or DEFAULT_NAMESPACE)


def _own_namespace() -> str:
    try:
        return Path(OWN_NAMESPACE_FILE).read_text().strip()
    except OSError:
        return DEFAULT_NAMESPACE


async def find(kube: Kube, namespace: str, name: str | None) -> Object:
    """The ThreadCluster that is meant: the one of that name, else the only one of the namespace.

    Raises `ClusterNotFound` when there is none, `ClusterUnreachable` when there are several, and `KubeError`.
    """
    if name is not None:
        found = await kube.get(THREAD_CLUSTER, namespace, name)
        if found is None:
            raise ClusterNotFound(
                f"no ThreadCluster {name} in namespace {namespace}{_others(await _names(kube, namespace))}"
            )
        return found
    listed = (await kube.list(THREAD_CLUSTER, namespace)).items
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise ClusterNotFound(f"no ThreadCluster in namespace {namespace}; say with --namespace where yours is")
    names = ", ".join(sorted(each["metadata"]["name"] for each in listed))
    raise ClusterUnreachable(f"namespace {namespace} has several ThreadClusters; say with --name which one: {names}")


async def _names(kube: Kube, namespace: str) -> Sequence[str]:
    """Names of the ThreadClusters in a namespace; only a user who gives no name needs the right to list."""
    try:
        return sorted(each["metadata"]["name"] for each in (await kube.list(THREAD_CLUSTER, namespace)).items)
    except Forbidden:
        return ()


def _others(names: Sequence[str]) -> str:
    return f"; there are {', '.join(names)}" if names else ""
