"""The workers of a cluster on Kubernetes: the pods that are ready, and the secret by which they know who asks."""

import base64
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import aiohttp

from shard_worker.contract_internal import (
    CordonVerb,
    HistoryEntry,
    OwnershipResponse,
    TargetsRequest,
    ThreadResponse,
    ThreadStateResponse,
)
from threadcluster_operator.cli.kubernetes.errors import ClusterUnreachable
from threadcluster_operator.controller.snapshot import Object, pod_of
from threadcluster_operator.kube.client import POD, SECRET, Kube
from threadcluster_operator.planning.observation import Answers, newest
from threadcluster_operator.render import CLIENT_SECRET_KEY, client_secret_of, selector_of
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient, client_context
from threadcluster_operator.workers.protocol import WorkersClient

T = TypeVar("T")

_ASKED_MOST: Final = 3
"""Any live worker gives the same answer; the others are for when it dies meanwhile."""


class PodAddresses(Protocol):
    """How a pod is reached; see `threadcluster_operator.cli.kubernetes.port_forward.PortForwarder`."""

    @property
    def failure(self) -> str | None:
        """Why the last connection that failed did."""

    async def to(self, pod: str) -> str:
        """The address at which the pod's management port answers."""


class PodWorkers(WorkersClient):
    """As `threadcluster_operator.workers.client.WorkerApiClient`; the pods are listed at the first request.

    Every request may be sent again: when no pod answers, the pods are listed once more.  Every method also raises
    `ClusterUnreachable` and `KubeError`.
    """

    def __init__(
        self,
        kube: Kube,
        addresses: PodAddresses,
        session: aiohttp.ClientSession,
        namespace: str,
        name: str,
        *,
        asked_most: int = _ASKED_MOST,
    ) -> None:
        self._kube = kube
        self._addresses = addresses
        self._session = session
        self._namespace = namespace
        self._name = name
        self._asked_most = asked_most
        self._known: WorkerApiClient | None = None
        self._asked: list[str] = []
        """The pods that are asked."""

    async def running(self) -> frozenset[str]:
        """The names of all workers' pods, ready or not."""
        return frozenset(pod["metadata"]["name"] for pod in await self._list())

    async def refresh(self) -> list[Object]:
        """List the pods again, and ask from now on those that are ready now; the pods."""
        listed = await self._list()
        if self._ready_of(listed) != self._asked:
            self._known = None
        return listed

    async def ownership(self) -> OwnershipResponse:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.ownership())

    async def answers(self) -> Answers:
        """See `WorkerApiClient`; at least one of the answers knows of the shards."""
        return await self._ask(_answers)

    def mismatched(self) -> bool:
        """See `WorkerApiClient`."""
        return self._known is not None and self._known.mismatched()

    async def set_targets(self, plan: TargetsRequest) -> int:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.set_targets(plan))

    async def cordon(self, worker: str, verb: CordonVerb) -> None:
        """See `WorkerApiClient`."""
        await self._ask(lambda workers: workers.cordon(worker, verb))

    async def pin(self, shard: int, worker: str | None) -> bool:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.pin(shard, worker))

    async def history(self, limit: int, shard: int | None) -> tuple[HistoryEntry, ...]:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.history(limit, shard))

    async def thread(self, thread_id: str, before: int | None) -> ThreadResponse:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.thread(thread_id, before))

    async def thread_state(self, thread_id: str, at: int | None) -> ThreadStateResponse:
        """See `WorkerApiClient`."""
        return await self._ask(lambda workers: workers.thread_state(thread_id, at))

    async def _ask(self, question: Callable[[WorkerApiClient], Awaitable[T]]) -> T:
        if self._known is not None:
            try:
                return await question(self._known)
            except NoWorkerAvailable:
                self._known = None
        try:
            self._known = await self._find()
            return await question(self._known)
        except NoWorkerAvailable as error:
            raise ClusterUnreachable(self._addresses.failure or f"{error}; {self._see_pods()}") from error

    async def _find(self) -> WorkerApiClient:
        pods = await self._list()
        ready = self._ready_of(pods)
        if not ready:
            found = f"none of its {len(pods)} pods is ready" if pods else "it has no pods"
            raise ClusterUnreachable(f"no worker of {self._name} can be asked: {found}; {self._see_pods()}")
        secret = await self._read_secret()
        self._asked = ready
        return WorkerApiClient(self._session, [await self._addresses.to(pod) for pod in ready], secret)

    async def _list(self) -> list[Object]:
        labels = ",".join(f"{key}={value}" for key, value in selector_of(self._name, "worker").items())
        return list((await self._kube.list(POD, self._namespace, labels)).items)

    def _ready_of(self, listed: list[Object]) -> list[str]:
        pods = sorted(map(pod_of, listed), key=lambda pod: pod.ordinal)
        return [pod.name for pod in pods if pod.ready][: self._asked_most]

    async def _read_secret(self) -> str:
        secret = client_secret_of(self._name)
        found = await self._kube.get(SECRET, self._namespace, secret)
        if found is None:
            raise ClusterUnreachable(
                f"Secret {secret} is not in namespace {self._namespace}, though the operator makes it;"
                f" `kubectl describe threadcluster {self._name} -n {self._namespace}` may say why"
            )
        try:
            given = base64.b64decode(found.get("data", {})[CLIENT_SECRET_KEY], validate=True).decode()
            client_context(given)
        except (KeyError, ValueError) as error:  # also what is no base64, no UTF-8, or too short
            raise ClusterUnreachable(f"Secret {secret} has no {CLIENT_SECRET_KEY} that can be used: {error}") from error
        return given

    def _see_pods(self) -> str:
        return f"`kubectl describe threadcluster {self._name} -n {self._namespace}` says why"


async def _answers(workers: WorkerApiClient) -> Answers:
    found = await workers.answers()
    if newest(found.values()) is None:
        raise NoWorkerAvailable("no worker answers")
    return found
