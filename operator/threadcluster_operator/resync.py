"""Every few minutes all objects are listed: what a watch has missed is found, and every cluster is looked at again."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from threadcluster_operator.cache import Cache
from threadcluster_operator.handlers import SELECTOR
from threadcluster_operator.kube import EVENT, THREAD_CLUSTER, Kind, Kube, KubeError
from threadcluster_operator.seen import Key
from threadcluster_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

RESYNC_S: Final = 300.0


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
            if kind is EVENT:
                continue
            try:
                listed = await kube.list(kind, namespace, "" if kind is THREAD_CLUSTER else SELECTOR)
            except KubeError as error:
                log.warning("not listed", extra={"kind": kind.kind, "cause": str(error)})
                continue
            for key in cache.replace(kind.kind, listed.items, listed.version):
                queue.mark(key)
        for key in list(cache.resources):
            queue.mark(key)
