"""The operator as a process: the process takes part in the election, and watches and reconciles only while it leads.

Health and metrics are served always.  Losing the lead ends watching and reconciling at once, and the process goes on as
a follower; a task that ends unexpectedly ends the process, and Kubernetes restarts the process.

A lead begins with the kinds: Kopf watches what is served when it begins.  So it waits for the CustomResourceDefinition, and
when that goes, or a kind comes that may be missing, the lead begins again, with an empty cache.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

from shard_worker.tasks import cancel_and_wait
from threadcluster_operator.controller.actions import OperatorContext
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.election_thread import ElectionThread
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.leader_election import LeaderElector, LeaderGuardedKube, Leadership, LeaseRef
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.operator_key import OperatorKey
from threadcluster_operator.controller.reconciler import Reach, Reconciler
from threadcluster_operator.controller.resync import RESYNC_S, Lister
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.controller.watcher import KopfWatcher, watched
from threadcluster_operator.controller.workqueue import WorkQueue
from threadcluster_operator.kube.client import (
    NAMESPACE,
    SERVICE_MONITOR,
    THREAD_CLUSTER,
    Forbidden,
    Kind,
    Kube,
    KubeAccess,
    KubeError,
    NotFound,
    connect,
)
from threadcluster_operator.workers.client import NamedWorkers

log = logging.getLogger(__name__)

LEASE_NAME: Final = "threadcluster-operator"
_WORKERS: Final = 16
"""Reconciles at the same time; each may wait for the API server, and holds nothing else."""
_OF_ONE_NAMESPACE: Final = 4
"""Reconciles of one namespace at the same time: an admission webhook that answers late holds up its own namespace alone."""
_KEPT_S: Final = 5.0
"""How long an idle connection to a worker is kept: longer than the pause of the worker that is asked often."""
_STUCK_S: Final = 45.0
"""Time after which a reconcile or a loop is stuck: with the probe's three failures the process ends within 90 s."""
_PING_EVERY_S: Final = 5.0
_KIND_AGAIN_S: Final = 0.5
_NEW_KIND_S: Final = 5.0
"""How often the kind is looked for that may be installed later; one small read."""
_ASK_AGAIN_S: Final = 1.0
_YOUNG_OBJECTS: Final = 50_000


class Options(NamedTuple):
    """How the operator runs."""

    namespace: str | None
    """The one whose clusters it looks after; None: all."""
    own_namespace: str
    """Where it runs, and where its Lease is."""
    identity: str
    port: int
    access: KubeAccess = KubeAccess()
    resync_s: float = RESYNC_S
    identity_namespace: str = "kube-system"
    """The namespace whose uid tells this Kubernetes cluster from another one."""
    tenants: TenantPolicy = TenantPolicy()


class OperatorFailed(Exception):
    """The operator cannot go on; the message says why."""


class LeadOver(Exception):
    """The lead begins again, with an empty cache, because the kinds that are served have changed."""


def identity() -> str:
    """The identity of this replica: begins with the pod's name where there is one, and differs at every start."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.getpid()}_{time.time_ns() % 1_000_000}"


def lease_of(options: Options) -> LeaseRef:
    """The Lease that the replicas of an installation share."""
    return LeaseRef(options.own_namespace, LEASE_NAME)


class Operator:
    """One replica."""

    def __init__(self, kube: Kube, reach: Reach, options: Options, leadership: Leadership | None = None) -> None:
        """Without a ``leadership`` of its own the election runs in the loop of the work."""
        self.telemetry = Telemetry()
        self.leadership = leadership or LeaderElector(kube, lease_of(options), options.identity)
        self.telemetry.leads = self.leadership.holds
        self._kube = kube
        self._reach = reach
        self._options = options
        self._answered_at = time.monotonic()
        self._watches: KopfWatcher | None = None
        self._lists_since: float | None = None
        self.waits_for: str | None = None
        """The kind that is not served, without which nothing can be done."""

    async def run(self) -> None:
        """Stand for election, and lead whenever elected, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.leadership.run(), name="leadership")
            tasks.create_task(self._lead_when_elected(), name="lead")

    def stuck(self) -> str | None:
        """The name of a part that makes no progress, or None."""
        now = time.monotonic()
        for key, began in self.telemetry.running.items():
            if now - began > _STUCK_S:
                return f"reconciling {key.namespace}/{key.name} takes {now - began:.0f} s"
        if self._watches is not None and now - self._answered_at > _STUCK_S:
            return "the watching loop does not turn"
        silent = self._watches.silent() if self._watches is not None else None
        if silent is not None:
            return f"the watch of {silent.plural} is silent"
        if self._lists_since is not None and now - self._lists_since > _STUCK_S:
            return "what there is cannot be listed; the log says why"
        return None

    async def _lead_when_elected(self) -> None:
        while True:
            await self.leadership.leading.wait()
            leading = asyncio.create_task(self._lead(), name="leading")
            lost = asyncio.create_task(self.leadership.lost.wait(), name="lost-the-lead")
            self.telemetry.leading.set(1)
            try:
                await asyncio.wait((leading, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.telemetry.leading.set(0)
                ended = leading.done()
                await cancel_and_wait(leading, lost)
            error = None if leading.cancelled() else leading.exception()
            if ended and isinstance(error, LeadOver):
                log.warning("operator begins its lead again", extra={"cause": str(error)})
            elif ended:
                raise OperatorFailed(f"leading ended: {error!r}") from error
            elif error is not None:  # of a lead that was lost: another replica leads
                log.warning("operator failed to end its lead in order", extra={"cause": repr(error)})

    async def _lead(self) -> None:
        """Watch and reconcile; ends only by being cancelled, by a fault, or with `LeadOver`."""
        options, cache = self._options, Cache()
        kube = LeaderGuardedKube(self._kube, self.leadership)
        recorder = Recorder(kube, options.identity)
        site = await self._read_site()
        key = OperatorKey(kube, options.own_namespace)
        await self._load_key(key)
        monitors = await self._serves(SERVICE_MONITOR)
        kinds = watched(service_monitors=monitors)
        await self._wait_for(kinds)
        queue: WorkQueue[Key] = WorkQueue(
            lambda key: reconciler.reconcile(key),
            workers=_WORKERS,
            group=lambda key: key.namespace,
            of_one_group=_OF_ONE_NAMESPACE,
        )
        self.telemetry.queue_depth.set_function(lambda: queue.depth)
        lister = Lister(self._kube, cache, queue.add, kinds, options.namespace)
        reconciler = Reconciler(
            kube,
            cache,
            self._reach,
            recorder,
            self.telemetry,
            OperatorContext(options.own_namespace, monitors, key.keys, site, options.tenants),
        )
        reconciler.wake = lambda owner: queue.add(Key(*owner))
        reconciler.relist = lister.request

        def feed(kind_of_event: str | None, body: Mapping[str, Any]) -> None:
            before = cache.cluster_of(body["metadata"]["uid"])  # a change of labels may lead to another
            edited = cache.is_edit(body)
            key = cache.drop(body) if kind_of_event == "DELETED" else cache.put(body)
            for each in {before, key}:
                if each is not None and (each in cache.resources or body["kind"] == THREAD_CLUSTER.kind):
                    queue.add(each, first=edited)

        watches = self._watches = KopfWatcher(feed, lister.request, kinds, options.namespace, options.access)
        self._answered_at = self._lists_since = time.monotonic()
        watches.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work(lister, queue, cache), name="work-queue")
                tasks.create_task(recorder.run(), name="events")
                tasks.create_task(lister.run(options.resync_s), name="lister")
                tasks.create_task(self._ping(watches), name="ping")
                tasks.create_task(key.follow(), name="operator-key")
                tasks.create_task(self._fail_when_ended(watches, kinds), name="watches")
                if not monitors:
                    tasks.create_task(self._notice(SERVICE_MONITOR), name="new-kind")
        except ExceptionGroup as failed:
            if len(failed.exceptions) == 1 and isinstance(failed.exceptions[0], LeadOver):
                raise failed.exceptions[0] from None
            raise
        finally:
            self._watches = self._lists_since = None
            self.telemetry.clear()
            await reconciler.close()
            await asyncio.shield(watches.stop())

    async def _work(self, lister: Lister, queue: WorkQueue[Key], cache: Cache) -> None:
        """Nothing is decided before everything that there is was listed once: what is missing then, is missing."""
        await lister.complete.wait()
        self._lists_since = None
        # The objects of the first lists stay: collections that traverse all of them would pause every task.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
        for key in cache.resources:
            queue.add(key)
        await queue.run()

    async def _wait_for(self, kinds: Sequence[Kind]) -> None:
        """Return when every kind is served, and may be listed.

        A kind that is missing is no fault of this process, and no restart brings it: the operator may be installed before
        its CustomResourceDefinition.  `stuck` reports before long what else keeps a kind from being listed.
        """
        self._lists_since = time.monotonic()
        try:
            for kind in kinds:
                while not await self._is_served(kind):
                    await asyncio.sleep(_KIND_AGAIN_S)
        finally:
            self.waits_for = self._lists_since = None

    async def _read_site(self) -> str:
        """The uid of the Kubernetes cluster, once the API server tells it.  Raises `OperatorFailed` without the right."""
        name = self._options.identity_namespace
        while True:
            try:
                found = await self._kube.get(NAMESPACE, None, name)
            except Forbidden as error:
                raise OperatorFailed(
                    f"namespace {name} cannot be read, whose uid tells this Kubernetes cluster from others: {error}. Remedy:"
                    " give the operator the right to get it, or name another one with --identity-namespace"
                ) from error
            except KubeError as error:
                log.warning("Kubernetes cluster not identified", extra={"namespace": name, "cause": str(error)})
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            if found is None:
                raise OperatorFailed(f"there is no namespace {name}; name another one with --identity-namespace")
            return str(found["metadata"]["uid"])

    async def _load_key(self, key: OperatorKey) -> None:
        """Read the operator's key, or make it.  Raises `OperatorFailed` where that cannot succeed by itself."""
        while True:
            try:
                return await key.load()
            except (Forbidden, ValueError) as error:
                raise OperatorFailed(f"the operator has no key for the secrets of clusters: {error}") from error
            except KubeError as error:
                log.warning("operator key not read", extra={"cause": str(error)})
                await asyncio.sleep(_ASK_AGAIN_S)

    async def _is_served(self, kind: Kind) -> bool:
        try:
            await self._kube.probe(kind, self._options.namespace)
        except NotFound as error:
            if self.waits_for != kind.plural:
                log.warning("operator waits for a kind", extra={"kind": kind.kind, "cause": str(error)})
            self.waits_for, self._lists_since = kind.plural, None
            return False
        except KubeError as error:
            log.warning("not listed, trying again", extra={"kind": kind.kind, "cause": str(error)})
            return False
        if self.waits_for == kind.plural:
            self.waits_for, self._lists_since = None, time.monotonic()
        return True

    async def _serves(self, kind: Kind) -> bool:
        try:
            await self._kube.probe(kind, self._options.namespace)
        except KubeError as error:
            log.debug("kind not served", extra={"kind": kind.kind, "cause": str(error)})
            return False
        return True

    async def _notice(self, kind: Kind) -> None:
        """Raise `LeadOver` as soon as a kind is served."""
        while not await self._serves(kind):
            await asyncio.sleep(_NEW_KIND_S)
        raise LeadOver(f"{kind.kind} is served now")

    async def _fail_when_ended(self, watches: KopfWatcher, kinds: Sequence[Kind]) -> None:
        """Raise when watching has ended, which ends the process; but where a kind is gone, the lead begins again."""
        await watches.ended()
        for kind in kinds:
            try:
                await self._kube.probe(kind, self._options.namespace)
            except NotFound as error:
                raise LeadOver(f"{kind.kind} is not served any more: {error}") from error
            except KubeError:
                continue
        raise OperatorFailed(f"watching ended: {watches.error!r}")

    async def _ping(self, watches: KopfWatcher) -> None:
        def answered() -> None:
            self._answered_at = time.monotonic()

        while True:
            watches.alive(answered)
            await asyncio.sleep(_PING_EVERY_S)


def application(operator: Operator) -> web.Application:
    """``/livez``, ``/readyz`` and ``/metrics``."""

    async def livez(_: web.Request) -> web.Response:
        stuck = operator.stuck()
        return web.Response(text="ok\n") if stuck is None else web.Response(status=503, text=f"{stuck}\n")

    async def readyz(_: web.Request) -> web.Response:
        unfit = operator.leadership.unfit()
        if unfit is not None:
            return web.Response(status=503, text=f"cannot take the Lease: {unfit}\n")
        if operator.leadership.leading.is_set():
            return web.Response(
                text=f"leading, waits for {operator.waits_for}\n" if operator.waits_for else "leading\n"
            )
        return web.Response(text="following\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=operator.telemetry.page(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


async def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT.  Raises `OperatorFailed`."""
    loop = asyncio.get_running_loop()
    asked_to_end = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, asked_to_end.set)
    # The questions to workers have their own bound, which is fair; the connector's would let silent workers keep the others out.
    # A connection is kept for the next question where that comes soon: thousands of idle ones would take 100 MiB.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S)
    async with connect(options.access) as kube, aiohttp.ClientSession(connector=connector) as session:

        def reach(_: Key, addresses: Mapping[str, str], secret: str) -> NamedWorkers:
            return NamedWorkers(session, addresses, secret)

        election = ElectionThread(options.access, lease_of(options), options.identity)
        operator = Operator(kube, reach, options, election)
        runner = web.AppRunner(application(operator), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, None, options.port).start()
        log.info("operator started", extra={"identity": options.identity, "namespace": options.namespace or "all"})
        running = asyncio.create_task(operator.run(), name="operator")
        ending = asyncio.create_task(asked_to_end.wait(), name="asked-to-end")
        try:
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                error = running.exception()
                raise OperatorFailed(f"the operator ended: {error!r}") from error
            log.info("operator ends", extra={"identity": options.identity})
        finally:
            await cancel_and_wait(running, ending)
            await runner.cleanup()
