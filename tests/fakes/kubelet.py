"""Plays the kubelet of some nodes on the API alone: no container runs, everything else is Kubernetes' own doing.

The nodes are Node objects whose heartbeat the fake kubelet keeps up.  The real scheduler binds pods to them, the real
controllers find a node lost whose heartbeat stops; the fake kubelet only reports what kubelets report (`pod_life`), and ends
pods that are being deleted.  How pods behave is set by rules, at any time: a changed rule changes the pods that live.

It does not simulate probes, volumes or the exit of a single container.  The node tests have those.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Protocol, Self

import aiohttp

from tests.fakes.pod_life import Behaviour, Step, life
from tests.support.kube_api import Api, Object, Refused

_HEARTBEAT_S: Final = 2.0
_AWAY_S: Final = 0.2
_LEASES: Final = "kube-node-lease"
_HANDS: Final = 16
"""Reports under way at a time."""
_FAULTS: Final = (Refused, aiohttp.ClientError, TimeoutError)
"""The faults of a request to the API server."""
_NOT_YET: Final = (401, 403, 429)
"""Besides 500 and more, the answers of an API server that has just started: it does not know its users' rights yet."""

_numbers = itertools.count(1)


class PodProcesses(Protocol):
    """The processes in the pods: the fake kubelet reports to them what a container sees when it starts and stops."""

    def started(self, pod: Object, ip: str) -> None:
        """The pod is ready; ``ip`` is its address."""

    async def stopping(self, pod: Object) -> None:
        """It is being deleted, in order; its grace ends whatever this does."""

    def gone(self, pod: Object) -> None:
        """It does not run any more: it ended, or its node is lost."""


class NoPodProcesses:
    """Empty pods."""

    def started(self, pod: Object, ip: str) -> None: ...

    async def stopping(self, pod: Object) -> None: ...

    def gone(self, pod: Object) -> None: ...


@dataclass(slots=True)
class _Pod:
    """A pod on one of our nodes."""

    seen: Object
    ip: str
    bound: datetime
    reported: Object | None = None
    alive: bool = False
    """Whether the start was reported to the processes, and the end not yet."""
    timer: asyncio.TimerHandle | None = None
    ending: asyncio.Task[None] | None = None

    @property
    def uid(self) -> str:
        uid: str = self.seen["metadata"]["uid"]
        return uid


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Object], bool]
    behaviour: Behaviour


@dataclass(slots=True)
class _Node:
    name: str
    lost: bool = False
    pods: dict[str, _Pod] = field(default_factory=dict)
    """By uid."""


class FakeKubelet:
    """The kubelets of some nodes; an asynchronous context, within which they live."""

    def __init__(
        self,
        api: Api,
        *,
        nodes: int = 1,
        namespace: str | None = None,
        labels: str = "",
        processes: PodProcesses | None = None,
    ) -> None:
        """``namespace`` and ``labels``: which pods are looked after; all by default."""
        self._api = api
        self._namespace = namespace
        self._labels = labels
        self._processes: PodProcesses = processes or NoPodProcesses()
        prefix = f"kubelet-{secrets.token_hex(3)}"
        self._nodes = {name: _Node(name) for name in (f"{prefix}-{number}" for number in range(nodes))}
        self._rules: list[_Rule] = []
        self._hands = asyncio.Semaphore(_HANDS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return list(self._nodes)

    # --- knobs

    def behave(self, applies: Callable[[Object], bool], behaviour: Behaviour) -> None:
        """From now on the pods for which ``applies`` holds behave so, also those that live; the last rule counts."""
        self._rules.append(_Rule(applies, behaviour))
        for node in self._nodes.values():
            for pod in node.pods.values():
                if applies(pod.seen):
                    pod.bound = datetime.now(UTC)
                    self._go_on(node, pod)

    def lose(self, name: str) -> None:
        """The node is cut off: no heartbeat, no report; its pods stay in the API, and their processes are gone."""
        node = self._nodes[name]
        node.lost = True
        for pod in node.pods.values():
            self._forget(pod)

    async def recover(self, name: str) -> None:
        """The node is back, and reports how its pods are."""
        node = self._nodes[name]
        node.lost = False
        await self._beat(node)
        for pod in node.pods.values():
            pod.reported = None
            self._go_on(node, pod)

    async def close_nodes(self, closed: bool = True) -> None:
        """Pods that come are unschedulable, as on a full cluster, until this is called with False."""
        for name in self._nodes:
            await self._api.patch("v1", "Node", name, {"spec": {"unschedulable": closed}})

    # --- living

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._remove_nodes)
            for node in self._nodes.values():
                await self._register(node)
            self._start(self._beat_all(), "heartbeats")
            self._start(self._follow(), "pods")
            undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all pods at once, and the nodes; raises what ended a part of the fake kubelet before its time."""
        pods = [pod for node in self._nodes.values() for pod in node.pods.values()]
        for pod in pods:
            self._forget(pod)
        for task in (tasks := [*self._tasks]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.close_nodes()
        await asyncio.gather(*(self._delete(pod) for pod in pods))
        await self._remove_nodes()
        if error is None and self._faults:
            raise self._faults[0]

    # --- nodes

    async def _register(self, node: _Node) -> None:
        await self._api.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": node.name,
                    "labels": {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": node.name},
                },
            }
        )
        await self._beat(node)

    async def _beat(self, node: _Node) -> None:
        now = datetime.now(UTC)
        capacity = {"cpu": "10000", "memory": "100Ti", "pods": "100000", "ephemeral-storage": "100Ti"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _instant(now)}
        status = {"status": {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}}
        await self._api.patch("v1", "Node", node.name, status, sub="status", how="strategic")
        await self._api.apply(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": node.name, "namespace": _LEASES},
                "spec": {
                    "holderIdentity": node.name,
                    "leaseDurationSeconds": 10,
                    "renewTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                },
            }
        )

    async def _beat_all(self) -> None:
        while True:
            try:
                for node in self._nodes.values():
                    if not node.lost:
                        await self._beat(node)
            except _FAULTS as fault:
                if not _passes(fault):
                    raise
            await asyncio.sleep(_HEARTBEAT_S)

    async def _remove_nodes(self) -> None:
        for name in self._nodes:
            await self._api.delete("v1", "Node", name)
            await self._api.delete("coordination.k8s.io/v1", "Lease", name, _LEASES)

    # --- pods

    async def _follow(self) -> None:
        """Look after every pod on our nodes; a watch that the server ends is begun again."""
        while True:
            try:
                await self._look()
            except _FAULTS as fault:
                if _status(fault) == 410:  # the watch is too old to go on
                    continue
                if not _passes(fault):
                    raise
                await asyncio.sleep(_AWAY_S)

    async def _look(self) -> None:
        path = await self._api.path("v1", "Pod", None, self._namespace)
        found = await self._api.request("GET", path, {"labelSelector": self._labels})
        there = {pod["metadata"]["uid"] for pod in found["items"]}
        for node in self._nodes.values():
            for uid in node.pods.keys() - there:
                self._drop(node, uid)
        for pod in found["items"]:
            self._see(pod)
        since = found["metadata"]["resourceVersion"]
        async for kind, pod in self._api.watch("v1", "Pod", self._namespace, since=since, labels=self._labels):
            if kind != "DELETED":
                self._see(pod)
            elif (at := self._nodes.get(pod["spec"].get("nodeName", ""))) is not None:
                self._drop(at, pod["metadata"]["uid"])

    def _see(self, seen: Object) -> None:
        node = self._nodes.get(seen["spec"].get("nodeName", ""))
        if node is None:
            return
        uid = seen["metadata"]["uid"]
        if uid not in node.pods:
            number = next(_numbers)
            node.pods[uid] = _Pod(seen, f"10.200.{number // 250 % 250}.{number % 250 + 1}", datetime.now(UTC))
        pod = node.pods[uid]
        pod.seen = seen
        self._go_on(node, pod)

    def _drop(self, node: _Node, uid: str) -> None:
        pod = node.pods.pop(uid, None)
        if pod is not None:
            self._forget(pod)

    def _forget(self, pod: _Pod) -> None:
        """Nothing runs in the pod any more."""
        if pod.timer is not None:
            pod.timer.cancel()
        if pod.alive:
            pod.alive = False
            self._processes.gone(pod.seen)

    def _behaviour(self, pod: _Pod) -> Behaviour:
        return next((rule.behaviour for rule in reversed(self._rules) if rule.applies(pod.seen)), Behaviour())

    def _go_on(self, node: _Node, pod: _Pod) -> None:
        """Report what is due of a pod's life, and come back for what is not due yet."""
        if node.lost:
            return
        if "deletionTimestamp" in pod.seen["metadata"]:
            if pod.ending is None:
                pod.ending = self._start(self._end(node, pod), f"ending {pod.ip}")
            return
        if pod.timer is not None:
            pod.timer.cancel()
        age_s = (datetime.now(UTC) - pod.bound).total_seconds()
        steps = list(
            life(pod.seen, self._behaviour(pod), ip=pod.ip, now=lambda s: _instant(pod.bound + timedelta(seconds=s)))
        )
        due = [step for step in steps if step.after_s <= age_s]
        if len(due) < len(steps):
            later_s = steps[len(due)].after_s - age_s
            pod.timer = asyncio.get_running_loop().call_later(later_s, self._go_on, node, pod)
        if due and due[-1].status != pod.reported:
            pod.reported = due[-1].status
            self._start(self._report(node, pod, due[-1]), f"reporting {pod.ip}")

    def _soon(self, node: _Node, pod: _Pod) -> None:
        """Report again when the API server may be back."""
        if pod.timer is not None:
            pod.timer.cancel()
        pod.timer = asyncio.get_running_loop().call_later(_AWAY_S, self._go_on, node, pod)

    async def _report(self, node: _Node, pod: _Pod, step: Step) -> None:
        metadata = pod.seen["metadata"]
        body = {"metadata": {"uid": pod.uid}, "status": step.status}
        async with self._hands:
            if node.lost or pod.reported is not step.status:  # the pod went on meanwhile
                return
            try:
                await self._api.patch(
                    "v1", "Pod", metadata["name"], body, metadata["namespace"], sub="status", how="strategic"
                )
            except _FAULTS as fault:
                if _passes(fault):
                    pod.reported = None
                    self._soon(node, pod)
                elif _status(fault) not in (404, 409):  # gone, or another of the same name
                    raise
                return
        if step.ready and not pod.alive:
            pod.alive = True
            self._processes.started(pod.seen, pod.ip)
        elif pod.alive and not step.ready:
            self._forget(pod)

    async def _end(self, node: _Node, pod: _Pod) -> None:
        """Stop the pod within its grace, then take it out of the API."""
        grace_s = float(pod.seen["metadata"].get("deletionGracePeriodSeconds", 0))
        if pod.timer is not None:
            pod.timer.cancel()
        try:
            async with asyncio.timeout(grace_s):
                if pod.alive:
                    await self._processes.stopping(pod.seen)
                await asyncio.sleep(self._behaviour(pod).stop_s)
        except TimeoutError:
            pass  # its grace is over
        self._forget(pod)
        async with self._hands:
            try:
                if not node.lost:
                    await self._delete(pod)
                    return
            except _FAULTS as fault:
                if not _passes(fault):
                    raise
        pod.ending = None
        self._soon(node, pod)

    async def _delete(self, pod: _Pod) -> None:
        metadata = pod.seen["metadata"]
        path = await self._api.path("v1", "Pod", metadata["name"], metadata["namespace"])
        try:
            await self._api.request("DELETE", path, body={"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}})
        except Refused as refusal:
            if refusal.status not in (404, 409):
                raise

    def _start(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"kubelet: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)


def _status(fault: BaseException) -> int | None:
    return fault.status if isinstance(fault, Refused) else None


def _passes(fault: BaseException) -> bool:
    """Whether the API server is away, or not all there yet: the same request may be answered a moment later."""
    status = _status(fault)
    return status is None or status in _NOT_YET or status >= 500


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
