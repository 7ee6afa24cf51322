"""Full lists of what is watched: when its watch begins, and every few minutes.

A watch that begins again begins with a list, in which an object is missing that was deleted meanwhile; no event tells of
that.  So the kind is listed once more, after Kopf's own list, and the cache gives up what is not in it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from threadcluster_operator.controller.cache import Cache, trim
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.watcher import SELECTOR
from threadcluster_operator.kube.client import EVENT, THREAD_CLUSTER, Kind, Kube, KubeError

log = logging.getLogger(__name__)

RESYNC_S: Final = 300.0
_AGAIN_S: Final = 1.0


class Lister:
    """Lists kinds; `run` it, and `request` a list."""

    def __init__(
        self, kube: Kube, cache: Cache, mark: Callable[[Key], None], kinds: Iterable[Kind], namespace: str | None
    ) -> None:
        self.complete = asyncio.Event()
        """Every kind was listed, after its watch had begun: an object that is missing does not exist.

        The beginning of a watch alone says nothing of that: a reconcile at that time would take a late object for a
        missing one, and a worker without a pod for a worker that owns nothing.
        """
        self._kube = kube
        self._cache = cache
        self._mark = mark
        self._kinds = tuple(kind for kind in kinds if kind is not EVENT)  # an Event is old after minutes, listed or not
        self._namespace = namespace
        self._never_listed = set(self._kinds)
        self._wanted: dict[Kind, None] = {}
        """In the order in which they were requested."""
        self._requested = asyncio.Event()

    def request(self, kind: Kind) -> None:
        """Have a kind listed soon."""
        if kind in self._kinds:
            self._wanted[kind] = None
            self._requested.set()

    async def run(self, every_s: float = RESYNC_S) -> None:
        """List what is requested, and everything from time to time, until cancelled."""
        loop = asyncio.get_running_loop()
        resync_at = loop.time() + every_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(resync_at):
                    await self._requested.wait()
            if loop.time() >= resync_at:  # also when requests come without a pause
                resync_at = loop.time() + every_s
                for kind in self._kinds:
                    self.request(kind)
                for key in list(self._cache.resources):
                    self._mark(key)
            await self._list_all()

    async def _list_all(self) -> None:
        # Cleared first: a request during a list is of what the list may have missed, and is one more list.
        self._requested.clear()
        wanted, self._wanted = self._wanted, {}
        for kind in wanted:
            try:
                await self._list(kind)
            except KubeError as error:
                log.warning("not listed, trying again", extra={"kind": kind.kind, "cause": str(error)})
                await asyncio.sleep(_AGAIN_S)
                self.request(kind)

    async def _list(self, kind: Kind) -> None:
        listed = await self._kube.list(kind, self._namespace, "" if kind is THREAD_CLUSTER else SELECTOR, trim)
        for key in self._cache.replace(kind.kind, listed.items, listed.version):
            self._mark(key)
        self._never_listed.discard(kind)
        if not self._never_listed:
            self.complete.set()
