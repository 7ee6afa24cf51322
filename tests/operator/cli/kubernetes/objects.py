"""Objects that the commands meet in a namespace."""

from typing import Any

from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import POD, SECRET, THREAD_CLUSTER


def cluster(name: str, **spec: Any) -> Object:  # as YAML would have it
    """A ThreadCluster."""
    return {
        "apiVersion": THREAD_CLUSTER.group_version,
        "kind": THREAD_CLUSTER.kind,
        "metadata": {"name": name, "namespace": "here", "resourceVersion": "1"},
        "spec": {
            "shards": 12,
            "replicas": 3,
            "image": "threadcluster:1",
            "database": {"urlSecretKeyRef": {"name": "database"}},
            **spec,
        },
    }


def pod(name: str, *, ready: bool = True) -> Object:
    """A worker's pod."""
    return {
        "apiVersion": POD.group_version,
        "kind": POD.kind,
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def secret(name: str, **data: str) -> Object:
    """A Secret, its values in base64 as they are given."""
    return {"apiVersion": "v1", "kind": SECRET.kind, "metadata": {"name": name}, "data": data}
