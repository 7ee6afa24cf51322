"""An API server's objects in memory, as `Kube` reads and merges them; what it refuses is a knob."""

from collections.abc import Callable
from typing import Any

from threadcluster_operator.kube import POD, SECRET, THREAD_CLUSTER, Conflict, Kind, KubeError, Listed
from threadcluster_operator.seen import Object


class Shelf:
    """One namespace."""

    def __init__(self, *objects: Object) -> None:
        self.objects = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        self.refuses: dict[tuple[str, str], KubeError] = {}
        """By verb and kind."""
        self.conflicts = 0
        """How many merges still come second."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        self._check("get", kind)
        return self.objects.get((kind.kind, name))

    async def list(
        self, kind: Kind, namespace: str | None, labels: str = "", keep: Callable[[Object], Object] = dict
    ) -> Listed:
        self._check("list", kind)
        return Listed([keep(each) for (its, _), each in self.objects.items() if its == kind.kind], "1")

    async def create(self, kind: Kind, body: Object) -> Object:
        raise AssertionError("a command creates nothing")

    async def apply(self, kind: Kind, body: Object, uid: str) -> Object:
        raise AssertionError("a command applies nothing")

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        self._check("patch", kind)
        found = self.objects[kind.kind, name]
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict(409, "Conflict", "the object has been modified")
        assert patch["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
        rebalance = found["spec"].get("rebalance", {}) | patch["spec"]["rebalance"]
        version = str(int(found["metadata"]["resourceVersion"]) + 1)
        self.objects[kind.kind, name] = {
            **found,
            "metadata": found["metadata"] | {"resourceVersion": version},
            "spec": found["spec"] | {"rebalance": rebalance},
        }
        return self.objects[kind.kind, name]

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        raise AssertionError("a command deletes nothing")

    def _check(self, verb: str, kind: Kind) -> None:
        error = self.refuses.get((verb, kind.kind))
        if error is not None:
            raise error


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
