"""The cached view of ownership that a worker uses, and the requests to read it again.

One reader (the reconciler) reads the view; all other parts only use the last view, or request a refresh and wait for the
next reading.  A hint that a worker gets between two readings (`apply_hint`) counts until a reading is as new.
"""

import asyncio
import math
from contextlib import suppress

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.lease import boottime
from shard_worker.ownership.view import EMPTY, OwnershipView, ShardOwner


class ViewCache:
    """The last view, and the futures of the callers that wait for the next."""

    def __init__(self) -> None:
        self.view: OwnershipView = EMPTY
        self.read_at = -math.inf
        """When the reading of ``view`` began, by `boottime`."""
        self._began_at = -math.inf
        self.wanted = False
        """Whether a refresh was requested since the last reading began."""
        self._woken = asyncio.Event()
        self._asked: asyncio.Future[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._change: asyncio.Future[None] | None = None
        self._hints: dict[ShardId, tuple[str, int]] = {}
        self._era = self._reading_era = 0

    # --- for those who look

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None:
        """The last known owner of a shard; None while there is none."""
        row = self.view.shards.get(shard_id)
        if row is None:
            return None
        name, epoch = row.owner, row.epoch
        hint = self._hints.get(shard_id)
        if hint is not None and hint[1] > epoch:
            name, epoch = hint
        worker = self.view.workers.get(name) if name is not None else None
        if worker is None:
            return None
        incarnation = row.incarnation if name == row.owner and row.incarnation is not None else worker.incarnation
        return ShardOwner(worker.id, incarnation, epoch, worker.host, worker.public_port, worker.management_port)

    def apply_hint(self, shard_id: ShardId, worker: str, epoch: int) -> None:
        """Record a peer's hint: the owner of a shard since that epoch."""
        if epoch > self._hints.get(shard_id, ("", 0))[1]:
            self._hints[shard_id] = (worker, epoch)
            self._changed()

    def next_change(self) -> "asyncio.Future[None]":
        """Done when something is next learned or read.  It is shared: wait for it, never cancel it."""
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
        return self._change

    def _changed(self) -> None:
        change, self._change = self._change, None
        _tell(change)

    def request_refresh(self) -> None:
        """Something may have changed: have it read again soon."""
        self.wanted = True
        self._woken.set()

    def wake(self) -> None:
        """Have the reader turn at once, without reading again."""
        self._woken.set()

    async def refresh(self) -> None:
        """Return when a reading that began after this call is over, or could not be made."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
        self.request_refresh()
        await asyncio.shield(self._asked)

    async def next_turn(self) -> None:
        """Return when the reader has next read and acted, or was stopped."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._turn)

    # --- for the reader

    def begin(self) -> "asyncio.Future[None] | None":
        """A reading begins; hand what this returns to `end`."""
        self.wanted = False
        self._reading_era, self._began_at = self._era, boottime()
        asked, self._asked = self._asked, None
        return asked

    def end(self, asked: "asyncio.Future[None] | None", view: OwnershipView | None) -> None:
        """The reading is over; without a view it failed, and what was known stays."""
        if view is not None and self._reading_era == self._era:
            self.view, self.read_at = view, self._began_at
            self._hints = {
                shard_id: hint
                for shard_id, hint in self._hints.items()
                if shard_id in view.shards and hint[1] > view.shards[shard_id].epoch
            }
            self._changed()
        _tell(asked)

    def cycle_done(self) -> None:
        """The actions that follow from the reading are done."""
        turn, self._turn = self._turn, None
        _tell(turn)

    def forget(self) -> dict[ShardId, int]:
        """After a fail-over: discard the view and the hints, and the result of a reading that is under way.

        Returns the highest epoch that was known of each shard.
        """
        epochs = {shard_id: row.epoch for shard_id, row in self.view.shards.items()}
        for shard_id, (_, epoch) in self._hints.items():
            epochs[shard_id] = max(epoch, epochs.get(shard_id, 0))
        self._era += 1
        self.view, self.read_at = EMPTY, -math.inf
        self._hints = {}
        self._changed()
        return epochs

    def stopped(self) -> None:
        """The reader has stopped, for now or for good: release every waiting caller."""
        self.end(self.begin(), None)
        self.cycle_done()

    async def wait(self, most_s: float) -> None:
        """Return on `request_refresh` or `wake`, or after ``most_s`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._woken.wait()
        self._woken.clear()


def _tell(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
