"""The operator's reconciler on an API server in memory, and on one real worker that it asks as in a cluster.

The StatefulSet's controller and the Job's are played: `OperatedCluster` gives the pods, which never restart.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from threadcluster_operator.controller.actions import OperatorContext
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.reconciler import Reconciler
from threadcluster_operator.controller.snapshot import Key, Object
from threadcluster_operator.controller.workqueue import WorkQueue
from threadcluster_operator.render import key_fingerprint
from threadcluster_operator.workers.client import NamedWorkers

from shard_worker.tasks import BackgroundTasks
from tests.e2e.outages.harness import Harness
from tests.fakes.kube import InMemoryKube
from tests.support.polling import eventually
from tests.support.worker_processes import SECRET

WORKER: Final = "chat-0"
"""The name of the worker that lives."""
_CHAT: Final = Key("talk", "chat")
_WATCH_S: Final = 0.05
_KEY: Final = b"a key of the operator with enough letters"
"""The worker has a secret of its own, by which it is asked: the one that is derived from this key is not looked at."""


class OperatedCluster:
    """A ThreadCluster of two pods, in the first of which the harness's worker runs."""

    def __init__(self, harness: Harness, session: aiohttp.ClientSession) -> None:
        self.kube = InMemoryKube()
        self._harness = harness
        self._session = session
        self._cache = Cache()
        self.reconciler = Reconciler(
            self.kube,
            self._cache,
            self._reach,
            Recorder(self.kube, "operator-0"),
            Telemetry(),
            OperatorContext("threadcluster-system", keys={key_fingerprint(_KEY): _KEY}, site="kubernetes-1"),
        )
        self.looks = 0
        self._revision = ""
        """Of the first template, whose pods are the only ones."""
        self.queue: WorkQueue[Key] = WorkQueue(self._reconcile, workers=1)
        self.reconciler.wake = lambda owner: self.queue.add(Key(*owner))
        self.kube.put(
            {
                "apiVersion": "threadcluster.io/v1alpha1",
                "kind": "ThreadCluster",
                "metadata": {"name": "chat", "namespace": "talk", "uid": "cluster-1", "generation": 1},
                "spec": {
                    "shards": 8,
                    "replicas": 1,
                    "image": "threadcluster:1",
                    "database": {"urlSecretKeyRef": {"name": "database"}},
                },
            }
        )

    async def _reconcile(self, key: Key) -> float | None:
        requeue_after_s = await self.reconciler.reconcile(key)
        self.looks += 1
        return requeue_after_s

    def _reach(self, key: Key, addresses: Mapping[str, str], secret: str) -> NamedWorkers:
        """The real worker, at whatever address its pod has; nothing listens where the other pod is."""
        assert key == _CHAT
        assert secret
        real = self._harness.worker.management.replace("http:", "https:")
        return NamedWorkers(
            self._session,
            {name: real if name == WORKER else "https://127.0.0.1:9" for name in addresses},
            SECRET,
        )

    @property
    def resource(self) -> Object:
        """The ThreadCluster."""
        return self.kube.objects["ThreadCluster", "chat"]

    @property
    def stateful_set(self) -> Object:
        """The StatefulSet."""
        return self.kube.objects["StatefulSet", "chat"]

    @property
    def partition(self) -> int:
        """The ordinal from which on pods run the newest template."""
        return int(self.stateful_set["spec"]["updateStrategy"]["rollingUpdate"]["partition"])

    def edit(self, **spec: Any) -> None:  # as YAML would have it
        """The user changes the spec."""
        self.resource["spec"].update(spec)
        self.resource["metadata"]["generation"] += 1
        self.kube.put(self.resource)

    def condition(self, name: str) -> tuple[str, str]:
        """Status and reason of a condition; empty before the first status."""
        found = self.resource.get("status", {}).get("conditions", ())
        return next(((c["status"], c["reason"]) for c in found if c["type"] == name), ("", ""))

    async def look(self) -> None:
        """One more look of the operator, done when this returns."""
        before = self.looks
        self.queue.add(_CHAT)
        await eventually(lambda: self.looks > before, within_s=20, what="a look")

    async def until(self, holds: Callable[[], bool], *, within_s: float, what: str) -> float:
        """Seconds until something holds."""
        began = time.monotonic()
        try:
            await eventually(holds, within_s=within_s, what=what)
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {self.resource}, {self.kube.objects.get(('StatefulSet', 'chat'))}"
            ) from error
        return time.monotonic() - began

    async def watch(self) -> None:
        """Play the watches and the other controllers until cancelled."""
        known: dict[tuple[str, str], Object] = {}
        while True:
            self._play()
            for place, each in list(self.kube.objects.items()):
                if known.get(place) is not each:
                    known[place] = each
                    self._cache.put(each)
                    self.queue.add(_CHAT)
            for place in known.keys() - self.kube.objects.keys():
                self._cache.drop(known.pop(place))
                self.queue.add(_CHAT)
            await asyncio.sleep(_WATCH_S)

    def _play(self) -> None:
        for (kind, _), each in list(self.kube.objects.items()):
            if kind == "Job" and "status" not in each:
                self.kube.put(each | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
        live = self.kube.objects.get(("StatefulSet", "chat"))
        if live is None:
            return
        image = live["spec"]["template"]["spec"]["containers"][0]["image"]
        self._revision = self._revision or image
        status = {
            "observedGeneration": live["metadata"].get("generation", 1),
            "replicas": live["spec"]["replicas"],
            "updateRevision": image,
            "currentRevision": self._revision,
        }
        if live.get("status") != status:
            self.kube.put(live | {"status": status})
        for ordinal in range(live["spec"]["replicas"]):
            if ("Pod", f"chat-{ordinal}") not in self.kube.objects:
                self.kube.put(_pod(live, ordinal, self._revision))


def _pod(owner: Object, ordinal: int, revision: str) -> Object:
    labels = owner["spec"]["template"]["metadata"]["labels"]
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"chat-{ordinal}",
            "namespace": "talk",
            "labels": labels | {"controller-revision-hash": revision},
            "ownerReferences": [{"kind": "StatefulSet", "uid": owner["metadata"]["uid"], "controller": True}],
        },
        "spec": {"nodeName": "node", "containers": [{"image": "threadcluster:1"}]},
        "status": {"podIP": f"192.0.2.{ordinal + 1}", "conditions": [{"type": "Ready", "status": "True"}]},
    }


@asynccontextmanager
async def operated(harness: Harness) -> AsyncIterator[OperatedCluster]:
    """A cluster that is Ready."""
    tasks = BackgroundTasks()
    async with aiohttp.ClientSession() as session:
        made = OperatedCluster(harness, session)
        tasks.start(made.watch(), name="watch")
        tasks.start(made.queue.run(), name="work-queue")
        try:
            await made.until(lambda: made.condition("Ready")[0] == "True", within_s=30, what="Ready")
            yield made
        finally:
            await made.reconciler.close()
            await tasks.close()
