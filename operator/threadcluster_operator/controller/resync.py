"""Every few minutes all objects are listed: what a watch has missed is found, and every cluster is looked at again."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from threadcluster_operator.controller.cache import Cache, trim
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.watcher import SELECTOR
from threadcluster_operator.controller.workqueue import WorkQueue
from threadcluster_operator.kube.client import EVENT, THREAD_CLUSTER, Kind, Kube, KubeError

log = logging.getLogger(__name__)

RESYNC_S: Final = 300.0
_AGAIN_S: Final = 1.0


async def resync(
    kube: Kube,
    cache: Cache,
    queue: WorkQueue[Key],
    kinds: Sequence[Kind],
    namespace: str | None,
    every_s: float = RESYNC_S,
) -> None:
    """Go on until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        for kind in kinds:
            try:
                changed = await _list(kube, cache, kind, namespace)
            except KubeError as error:
                log.warning("not listed", extra={"kind": kind.kind, "cause": str(error)})
                continue
            for key in changed:
                queue.add(key)
        for key in list(cache.resources):
            queue.add(key)


async def list_all(kube: Kube, cache: Cache, kinds: Sequence[Kind], namespace: str | None) -> None:
    """Fill the cache; return once everything that there is, is in it.

    The watches report that they have begun, not that all their events have arrived: a reconcile at that time would take
    a late object for a missing one, and a worker without a pod for a worker that owns nothing.
    """
    for kind in kinds:
        while True:
            try:
                await _list(kube, cache, kind, namespace)
                break
            except KubeError as error:
                log.warning("not listed, trying again", extra={"kind": kind.kind, "cause": str(error)})
                await asyncio.sleep(_AGAIN_S)


async def _list(kube: Kube, cache: Cache, kind: Kind, namespace: str | None) -> set[Key]:
    """The clusters of which something was missed."""
    if kind is EVENT:
        return set()
    listed = await kube.list(kind, namespace, "" if kind is THREAD_CLUSTER else SELECTOR, trim)
    return cache.replace(kind.kind, listed.items, listed.version)
