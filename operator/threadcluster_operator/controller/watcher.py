"""Kopf watches, and does nothing else: every event goes into the cache, and its cluster is marked.

Kopf runs in a thread and a loop of its own, so that neither can hold the other up.  There is no daemon, no timer and no
handler of deletions: nothing is ever written to the user's object but its status, no finalizer and no annotation, so a
ThreadCluster can be deleted while no operator runs.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

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

_STOP_S: Final = 10.0

Feed = Callable[[str | None, Mapping[str, Any]], None]
"""Takes an event: its type (None for what was there before), and the object."""


def watched(*, service_monitors: bool) -> tuple[Kind, ...]:
    """The kinds that are watched."""
    return (*WATCHED, SERVICE_MONITOR) if service_monitors else WATCHED


class KopfWatcher:
    """All watches, in a thread; `start` them, and `stop` them."""

    def __init__(self, feed: Feed, kinds: Sequence[Kind], namespace: str | None, access: KubeAccess) -> None:
        self._access = access
        self._feed = feed
        self._kinds = kinds
        self._namespace = namespace
        self._owner = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._stop_flag = threading.Event()
        self.ready = threading.Event()
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    async def ended(self) -> None:
        """Return when watching has ended, which it never should by itself."""
        await self._ended.wait()

    async def stop(self) -> None:
        """End all watches."""
        self._stop_flag.set()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._ended.wait()
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
        except BaseException as error:
            self.error = error
            log.error("watching failed", exc_info=error)
        finally:
            self._owner.call_soon_threadsafe(self._ended.set)

    async def _watch(self) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True  # its rights would have to include all CRDs and namespaces
        settings.watching.chunk_size = 100
        settings.watching.server_timeout = 60
        settings.watching.inactivity_timeout = 70  # a watch without events or bookmarks is restarted
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
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            # Without one it looks for the user's name, which a container has none of.
            identity="threadcluster-operator",  # type: ignore[arg-type]  # Kopf's own type of text, which it hides
            clusterwide=self._namespace is None,
            namespaces=() if self._namespace is None else (self._namespace,),
            stop_flag=self._stop_flag,
            ready_flag=self.ready,
        )

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:  # Kopf's own keywords
        """The same way as everything else goes; asked again when the API server takes a token no more."""
        found = await self._access.configuration()
        token = await found.get_api_key_with_prefix("BearerToken")
        scheme, secret = (token or " ").rsplit(" ", 1) if " " in (token or " ") else ("Bearer", token)
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            scheme=scheme or None,
            token=secret or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
        )

    async def _event(self, event: Mapping[str, Any], **_: Any) -> None:  # Kopf's own keywords
        self._owner.call_soon_threadsafe(self._feed, event["type"], dict(event["object"]))


def _selector(kind: Kind) -> tuple[str, str, str]:
    group, _, version = kind.group_version.rpartition("/")
    return group, version, kind.plural
