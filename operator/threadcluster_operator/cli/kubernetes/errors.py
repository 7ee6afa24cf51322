"""Errors of a command that cannot reach its cluster on Kubernetes; each message says what to do."""

from typing import Final

from threadcluster_operator.kube.client import Forbidden, KubeError, NotFound, Rejected

_UNAUTHORIZED: Final = 401


class ClusterUnreachable(Exception):
    """The cluster is not reached, or does not do what was asked; the message says why, and what helps."""


class ClusterNotFound(ClusterUnreachable):
    """There is no such cluster."""


def sentence(error: KubeError) -> str:
    """The API server's refusal as a message for the user of a command."""
    message = str(error).rstrip(".")
    if isinstance(error, Forbidden):
        return f"{message}; manifests/users has what the commands need"
    if isinstance(error, NotFound):
        return f"this Kubernetes has no ThreadClusters ({message}); `kubectl apply -k manifests/base` installs them"
    if isinstance(error, Rejected):
        return f"the API server refuses it: {message}"
    if error.status == _UNAUTHORIZED:
        return (
            f"the API server does not know you ({message}): the credentials of this context are wrong, or have expired"
        )
    return message
