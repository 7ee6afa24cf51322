"""Workers in memory that live in a fake kubelet's pods: a pod that becomes ready is a worker that starts, and so on.

Which cluster a pod belongs to is read from its name, as a StatefulSet gives it: `<cluster>-<ordinal>`.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from tests.fakes.worker_api import MemoryWorkers
from tests.support.kube_api import Object

_TURN_S: Final = 0.02


class FakeWorkerPods:
    """The processes of all pods that belong to one of the clusters, by namespace and name."""

    def __init__(self, clusters: Mapping[tuple[str, str], MemoryWorkers]) -> None:
        """``clusters`` may get more while this is used."""
        self._clusters = clusters

    def started(self, pod: Object, ip: str) -> None:
        """The worker of that name starts."""
        cluster = self._cluster_of(pod)
        if cluster is not None:
            cluster.start(pod["metadata"]["name"], ip)

    async def stopping(self, pod: Object) -> None:
        """Its preStop hook: it leaves, and this returns when it owns nothing any more."""
        cluster, name = self._cluster_of(pod), pod["metadata"]["name"]
        if cluster is None:
            return
        cluster.leave(name)
        while cluster.owned_by(name):
            await asyncio.sleep(_TURN_S)

    def gone(self, pod: Object) -> None:
        """It ended in order when it had left before, and died otherwise."""
        cluster, name = self._cluster_of(pod), pod["metadata"]["name"]
        if cluster is None:
            return
        if cluster.owned_by(name):
            cluster.die(name)
        else:
            cluster.end(name)

    def _cluster_of(self, pod: Object) -> MemoryWorkers | None:
        metadata = pod["metadata"]
        cluster, _, ordinal = metadata["name"].rpartition("-")
        return self._clusters.get((metadata["namespace"], cluster)) if ordinal.isdecimal() else None
