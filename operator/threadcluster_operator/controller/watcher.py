"""Kopf watches, and does nothing else: every event goes into the cache, and its cluster is marked.

Kopf runs in a thread and a loop of its own, so that neither can hold the other up.  There is no daemon, no timer and no
handler of deletions: nothing is ever written to the user's object but its status, no finalizer and no annotation, so a
ThreadCluster can be deleted while no operator runs.

Kopf looks for the kinds once, when it begins; it never watches one that was not there.  A watch that fails for good ends
Kopf.  Both are for the caller to act on: begin when all kinds are served, and begin again, or end, when Kopf has ended.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import aiohttp
import kopf

from threadcluster_operator.controller.cache import INSTANCE, MANAGED
from threadcluster_operator.kube.client import (
    EVENT,
    INGRESS,
    JOB,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    SERVICE_MONITOR,
    STATEFUL_SET,
    THREAD_CLUSTER,
    Kind,
    KubeAccess,
)
from threadcluster_operator.kube.watch_session import Credentials, Signs, header_of, watch_session

log = logging.getLogger(__name__)
logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # it has a line, with all settings, for every event

WATCHED: Final = (
    THREAD_CLUSTER,
    STATEFUL_SET,
    POD,
    JOB,
    SERVICE,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    INGRESS,
    EVENT,
)
SELECTOR: Final = ",".join([*(f"{name}={value}" for name, value in sorted(MANAGED.items())), INSTANCE])
"""Of everything but ThreadClusters and Events."""
EVENT_FIELD_SELECTOR: Final = "type=Warning"
"""The Events that are watched: what Kubernetes complains of."""

_STOP_S: Final = 15.0
"""Time within which the watches must end; longer than `_END_S`, twice."""
_END_S: Final = 5.0
"""Time that is waited for cancelled tasks of Kopf to end."""
_WATCH_S: Final = 60
"""Time after which the API server ends a watch, and Kopf begins it again."""
_LOGIN_AGAIN_S: Final = 5.0
"""Time within which credentials are not tried again that the API server has refused: Kopf asks without a pause."""
SILENT_S: Final = 150.0
"""Time without an answer on a watch after which it is dead: longer than `_WATCH_S`, and than the 70 s after which Kopf
gives up a connection on which nothing comes, both in sequence."""

Feed = Callable[[str | None, Mapping[str, Any]], None]
"""Takes an event: its type (None for what was there before), and the object."""


def watched(*, service_monitors: bool) -> tuple[Kind, ...]:
    """The kinds that are watched."""
    return (*WATCHED, SERVICE_MONITOR) if service_monitors else WATCHED


Listed = Callable[[Kind], None]
"""Takes the kind of a watch that begins with a list, for the first time or again."""


class KopfWatcher:
    """All watches, in a thread; `start` them, and `stop` them.  ``feed`` and ``listed`` are called by the caller's loop."""

    def __init__(
        self, feed: Feed, listed: Listed, kinds: Sequence[Kind], namespace: str | None, access: KubeAccess
    ) -> None:
        self._access = access
        self._feed = feed
        self._listed = listed
        self._kinds = kinds
        self._namespace = namespace
        self._owner = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        """Kopf ends, or has ended."""
        self._over = asyncio.Event()
        """Nothing is left of it."""
        self._stop_flag = threading.Event()
        self._heard_at: dict[Kind, float] = {}
        self._sessions: list[aiohttp.ClientSession] = []
        self._refused: tuple[str, float] | None = None
        """The credentials of the last login, and when that was."""
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._heard_at = dict.fromkeys(self._kinds, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    async def ended(self) -> None:
        """Return when watching has ended, which it never should by itself."""
        await self._ended.wait()

    def silent(self) -> Kind | None:
        """A kind of whose watch nothing has been heard for too long; None when all are well."""
        now = time.monotonic()
        return next((kind for kind, at in self._heard_at.items() if now - at > SILENT_S), None)

    async def stop(self) -> None:
        """End all watches."""
        self._stop_flag.set()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._over.wait()
        except TimeoutError:
            log.error("the watches do not end")

    def alive(self, answer: Callable[[], None]) -> None:
        """Have ``answer`` called by the watching loop, if it still turns."""
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(answer)

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._watch())
        except BaseException as error:  # the thread's last: whatever it is, its owner learns of it
            self.error = error
            log.error("watching failed", exc_info=error)
        finally:
            self._tell_owner(self._ended.set)
            self._tell_owner(self._over.set)

    async def _watch(self) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True  # its rights would have to include all CRDs and namespaces
        settings.watching.chunk_size = 100
        settings.watching.server_timeout = _WATCH_S
        settings.watching.inactivity_timeout = _WATCH_S + 10  # a watch without events or bookmarks is restarted
        settings.watching.connect_timeout = 10
        # Each object has a worker task of its own, which keeps the last event while it waits
        # `idle_timeout` for the next.
        settings.queueing.worker_limit = None
        settings.queueing.idle_timeout = 0.2
        for kind in self._kinds:
            kopf.on.event(*_selector(kind), registry=registry)(self._event)
            if kind is EVENT:
                settings.watching.field_selectors[_selector(kind)] = EVENT_FIELD_SELECTOR
            elif kind is not THREAD_CLUSTER:
                settings.watching.label_selectors[_selector(kind)] = SELECTOR
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings,
            standalone=True,
            # Without one it looks for the user's name, which a container has none of.
            identity="threadcluster-operator",  # type: ignore[arg-type]  # Kopf's own type of text, which it hides
            clusterwide=self._namespace is None,
            namespaces=() if self._namespace is None else (self._namespace,),
            stop_flag=self._stop_flag,
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.error = next((task.exception() for task in done if not task.cancelled()), None)
        finally:
            # Before anything else: whatever Kopf's end may wait for, its owner does not.
            self._tell_owner(self._ended.set)
            # Kopf has a thread of the loop's executor wait for the flag, and the end of the loop waits for that thread.
            self._stop_flag.set()
            await _cancel(task for task in asyncio.all_tasks() - others if task.get_name().startswith("watcher for "))
            await _cancel(tasks)
            for session in self._sessions:  # Kopf closes them when it ends in order, and not when it fails
                await session.close()

    async def _login(self, **_: Any) -> kopf.AiohttpSession | None:  # Kopf's own keywords
        """The same way as everything else goes; asked again when the API server takes the credentials no more.

        None ends all watches, when the credentials are still those that were just refused.
        """
        settings = await self._access.configuration()
        header = await header_of(settings)

        async def read() -> str:
            return await header_of(await self._access.configuration())

        now = time.monotonic()
        before, self._refused = self._refused, (header, now)
        if before is not None and before[0] == header and now - before[1] < _LOGIN_AGAIN_S:
            return None
        signs = Signs(lambda kind: self._tell_owner(self._listed, kind), self._hear)
        session = await watch_session(settings, self._kinds, self._namespace, signs, Credentials(header, read))
        self._sessions = [*(each for each in self._sessions if not each.closed), session]
        return kopf.AiohttpSession(server=settings.host, aiohttp_session=session)

    def _hear(self, kind: Kind) -> None:
        self._heard_at[kind] = time.monotonic()

    async def _event(self, event: Mapping[str, Any], **_: Any) -> None:  # Kopf's own keywords
        self._tell_owner(self._feed, event["type"], dict(event["object"]))

    def _tell_owner(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have the caller's loop call something, in the order of the calls."""
        if not self._owner.is_closed():
            self._owner.call_soon_threadsafe(call, *arguments)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended, for a while.

    The watches come first, and alone.  Kopf cancels them together with the tasks by which it pauses them: a watch that is
    cancelled in the same moment takes that for a pause, goes on, and waits without end for credentials, which no task
    brings any more.
    """
    cancelled = {task for task in tasks if not task.done()}
    for task in cancelled:
        task.cancel()
    if cancelled:
        await asyncio.wait(cancelled, timeout=_END_S)


def _selector(kind: Kind) -> tuple[str, str, str]:
    group, _, version = kind.group_version.rpartition("/")
    return group, version, kind.plural
