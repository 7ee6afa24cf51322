"""The election on an event loop of its own.

A renewal must not wait for the operator's work: when hundreds of clusters come at once, the loop of the work may turn more slowly
than a Lease has to be renewed.  A loop that does not turn at all leads nothing, though: then the Lease is left to another replica.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from shard_worker.tasks import run_until
from threadcluster_operator.controller.leader_election import GIVE_UP_S, LeaderElector, LeaseRef, boottime
from threadcluster_operator.kube.client import KubeAccess, KubeError, connect

log = logging.getLogger(__name__)

SILENT_S: Final = 3 * GIVE_UP_S
"""Time without a turn of the loop of the work after which its replica does not stand for election."""
_TURN_S: Final = 0.5
_AGAIN_S: Final = 2.0


class ElectionThread:
    """See `LeaderElector`: one in a thread, whose results are known in the loop that runs `run`."""

    def __init__(self, access: KubeAccess, place: LeaseRef, identity: str) -> None:
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        self._access = access
        self._place = place
        self._identity = identity
        self._elector: LeaderElector | None = None
        self._turned_at = boottime()
        self._stop: Callable[[], object] = lambda: None
        self._stopped = False

    def unfit(self) -> str | None:
        """Why this replica could not lead now if it had to; None when it could."""
        return None if self._elector is None else self._elector.unfit()

    def holds(self) -> bool:
        """Whether this replica leads by the clock too."""
        return self._elector is not None and self._elector.holds()

    async def run(self) -> None:
        """Stand for election until cancelled; then the Lease is given back."""
        loop = asyncio.get_running_loop()

        def tell(mine: bool) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._note, mine)

        with ThreadPoolExecutor(1, thread_name_prefix="election") as threads:
            electing = loop.run_in_executor(threads, lambda: asyncio.run(self._elect(tell)))
            try:
                while not electing.done():
                    self._turned_at = boottime()
                    await asyncio.wait((electing,), timeout=_TURN_S)
                electing.result()
            finally:
                self._stopped = True
                self._stop()
                while not electing.done():  # a second cancellation must not leave the thread behind
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((electing,))

    async def _elect(self, tell: Callable[[bool], None]) -> None:
        """In the thread."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def end() -> None:
            with suppress(RuntimeError):  # this loop has ended by itself
                loop.call_soon_threadsafe(stop.set)

        self._stop = end
        if not self._stopped:
            await run_until(stop, self._stand(tell), name="election")

    async def _stand(self, tell: Callable[[bool], None]) -> None:
        while True:
            try:
                async with connect(self._access) as kube:
                    self._elector = LeaderElector(kube, self._place, self._identity, fit=self._turns, tell=tell)
                    await self._elector.run()
            except (KubeError, OSError) as error:
                log.warning("no connection for the election", extra={"cause": str(error)})
                await asyncio.sleep(_AGAIN_S)

    def _turns(self) -> bool:
        return boottime() - self._turned_at < SILENT_S

    def _note(self, mine: bool) -> None:
        if mine:
            self.lost.clear()
            self.leading.set()
        else:
            self.leading.clear()
            self.lost.set()
