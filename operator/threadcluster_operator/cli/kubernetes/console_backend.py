"""A ThreadCluster on Kubernetes behind its console: what its object, its pods and its workers answered last."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import aiohttp
import click

from shard_worker.contract_internal import HistoryEntry, OwnershipResponse
from shard_worker.tasks import BackgroundTasks, FirstFailure, TaskFailure, run_until
from threadcluster_operator.cli.kubernetes.cluster import Connection, connection
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable, sentence
from threadcluster_operator.cli.kubernetes.pod_workers import PodWorkers
from threadcluster_operator.cli.kubernetes.port_forward import PortForwarder, tunnels
from threadcluster_operator.cli.kubernetes.rebalance import RebalanceClient, spec_of
from threadcluster_operator.cli.kubernetes.status import is_ready, workers_of
from threadcluster_operator.cli.kubernetes.target import Place, find, place_of
from threadcluster_operator.cli.target import ClusterOptions, flags_of
from threadcluster_operator.cli.target_options import no_cluster
from threadcluster_operator.console.backend import (
    ClusterFacts,
    ConsoleBackend,
    Document,
    Verb,
    VerbName,
    VerbRefused,
    WorkerFacts,
)
from threadcluster_operator.console.server import ConsoleServer
from threadcluster_operator.console.verbs import command_lines, ordered, record
from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import KubeError
from threadcluster_operator.planning.observation import newest
from threadcluster_operator.planning.rebalance import MovesRefused
from threadcluster_operator.render import MANAGEMENT_PORT, PUBLIC_PORT
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient
from threadcluster_operator.workers.protocol import WorkersClient

T = TypeVar("T")

_ASKED_MOST: Final = 64
"""Workers whose shards are shown as served by their own answer; of the others, what the database says of them."""
_LOOK_EVERY_S: Final = 0.5
_LOOKS_AN_API_LOOK: Final = 2
"""The API server is asked in every second look: for the ThreadCluster and for its pods."""
_FAULTS: Final = (ClusterUnreachable, KubeError, NoWorkerAvailable, aiohttp.ClientError, OSError)


class KubernetesBackend(ConsoleBackend):
    """One ThreadCluster; `run` keeps its facts new, and needs no viewer."""

    def __init__(
        self, reached: Connection, place: Place, resource: Object, workers: "ConsoleWorkers", public: PortForwarder
    ) -> None:
        """``public``: ways to the public ports of its pods, for the chats."""
        self._reached = reached
        self._resource = resource
        self._mode: str = spec_of(resource).rebalance.mode
        self._name = str(resource["metadata"]["name"])
        self._workers = workers
        self._public = public
        options = place.options(self._name)
        in_namespace = flags_of(options._replace(name=None))
        self._commands = command_lines(
            flags_of(options), f"kubectl delete pod {{worker}} --grace-period=1{in_namespace}"
        )
        self._planner = RebalanceClient(reached.kube, workers, workers.running, place.namespace, self._name)
        self._rebalancing = BackgroundTasks()
        self._pods: list[Object] = []
        self._url = ""
        self._answers: Mapping[str, OwnershipResponse] = {}
        self.fault: str | None = None
        """Why the last look did not see everything; None when it did."""

    async def run(self, say: Callable[[str], None]) -> None:
        """Look without end; ``say`` gets each new fault, and its end."""
        looks = 0
        while True:
            before = self.fault
            try:
                await self.look(api=looks % _LOOKS_AN_API_LOOK == 0)
                self.fault = None
            except _FAULTS as error:
                self.fault = sentence(error) if isinstance(error, KubeError) else str(error) or repr(error)
            if self.fault != before:
                say(self.fault or "the cluster is seen again")
            looks += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self, *, api: bool) -> None:
        """Ask the workers, and with ``api`` the API server first.  Raises `ClusterUnreachable`, `KubeError`, `OSError`."""
        if api:
            self._resource = await find(self._reached.kube, self._reached.namespace, self._name)
            with suppress(ClusterUnreachable):  # of a spec that became wrong, what it was before
                self._mode = spec_of(self._resource).rebalance.mode
            self._pods = await self._workers.refresh()
        self._answers = await self._workers.answers()
        answering = sorted(self._answers)
        if answering:
            self._url = await self._public.to(answering[0])

    async def close(self) -> None:
        """Return when nothing of a rebalance that was begun here goes on."""
        await self._rebalancing.close()

    def facts(self) -> ClusterFacts:
        """See `ConsoleBackend`."""
        return ClusterFacts(
            name=self._name,
            ready=is_ready(self._resource),
            url=self._url,
            workers=[_facts_of(each) for each in workers_of(self._pods, newest(self._answers.values()))],
            answers=self._answers,
            claimed_by_other=next(filter(None, (each.claimed_by_other for each in self._answers.values())), None),
            rebalance_mode=self._mode,
        )

    def commands(self) -> Mapping[str, str]:
        """See `ConsoleBackend`."""
        return self._commands

    async def history(self, limit: int) -> Sequence[HistoryEntry]:
        """See `ConsoleBackend`."""
        return await self._workers.history(limit, None)

    async def act(self, verb: Verb) -> str:
        """See `ConsoleBackend`."""
        match verb.verb:
            case VerbName.KILL:
                raise VerbRefused("the console ends no pod; the command beside the button does")
            case VerbName.REBALANCE:
                return await self._rebalance()
        return await record(self._workers, verb)

    async def _rebalance(self) -> str:
        try:
            moves = (await self._planner.rebalance(None))["moves"]
        except MovesRefused as error:
            raise VerbRefused(str(error)) from error
        except _FAULTS as error:
            raise NoWorkerAvailable(str(error)) from error
        self._rebalancing.spawn(self._planner.hand_over(), name="console-rebalance")
        return ordered(moves)

    def workers(self) -> WorkersClient:
        """See `ConsoleBackend`."""
        return self._workers


class ConsoleWorkers(PodWorkers):
    """All workers whose pods are ready, a bounded number, whose faults are those that a console knows."""

    async def _ask(self, question: Callable[[WorkerApiClient], Awaitable[T]]) -> T:
        try:
            return await super()._ask(question)
        except (ClusterUnreachable, KubeError, aiohttp.ClientError) as error:
            raise NoWorkerAvailable(sentence(error) if isinstance(error, KubeError) else str(error)) from error


def _facts_of(worker: Document) -> WorkerFacts:
    """A worker by its own state where its pod is ready, else by what holds up its pod."""
    phase = worker["pod"]
    state = worker["state"] if phase == "Ready" else "dead" if phase is None else phase
    return WorkerFacts(name=worker["name"], state=state or "silent", pid=None, address=None)


def serve(options: ClusterOptions) -> None:
    """Serve the console of a ThreadCluster on loopback until the command is interrupted.  Raises `click.ClickException`."""
    try:
        asyncio.run(_serve(place_of(options, os.environ), options.name))
    except ClusterNotFound as error:
        no_cluster(str(error))
    except ClusterUnreachable as error:
        raise click.ClickException(str(error)) from error


async def _serve(place: Place, name: str | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with connection(place) as reached:
        resource = await find(reached.kube, place.namespace, name)
        own_name = resource["metadata"]["name"]
        click.echo(place.where(own_name), err=True)
        async with (
            aiohttp.ClientSession() as session,
            tunnels(reached.api, place.namespace, MANAGEMENT_PORT) as ways,
            tunnels(reached.api, place.namespace, PUBLIC_PORT, scheme="http") as public,
        ):
            workers = ConsoleWorkers(reached.kube, ways, session, place.namespace, own_name, asked_most=_ASKED_MOST)
            backend = KubernetesBackend(reached, place, resource, workers, public)
            server = ConsoleServer(backend)
            failed = FirstFailure()

            def report(failure: TaskFailure) -> None:
                failed.report(failure)
                stopping.set()

            await server.start(report)
            try:
                try:
                    await backend.look(api=True)
                except NoWorkerAvailable as error:  # the cluster may be starting
                    backend.fault = str(error)
                    click.echo(backend.fault, err=True)
                click.echo(server.address)
                click.echo("serving until Ctrl-C; nothing in the cluster depends on it", err=True)
                await run_until(stopping, backend.run(lambda line: click.echo(line, err=True)), name="looks")
            finally:
                await backend.close()
                await server.close()
            if failed.failure is not None:
                raise click.ClickException(f"the console ended: {failed.failure}")
