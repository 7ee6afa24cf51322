"""Folding a history, a slice at a time: the loop turns between two slices, however long the history is."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg

from shard_worker.domain.evolve import evolve
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import UndecodableEvent, decode

log = logging.getLogger(__name__)

REPLAY_CHUNK: Final = 100
"""Maximum events that are folded in one turn of the loop: a millisecond, so that requests under way hardly notice."""
SLICE_BYTES: Final = 256 << 10
"""Maximum bytes of payloads in one turn, but for the last event: decoding and folding a megabyte takes 5 ms."""


class Pace:
    """Counts what was folded since the loop turned, for one task.

    ``pause_s`` gives how long a turn waits, in seconds; 0 lets every callback run that is ready.
    """

    __slots__ = ("_pause_s", "rows", "size")

    def __init__(self, pause_s: Callable[[], float] = lambda: 0.0) -> None:
        self.rows = 0
        self.size = 0
        self._pause_s = pause_s

    @property
    def spent(self) -> bool:
        """Whether the loop should turn now."""
        return self.rows >= REPLAY_CHUNK or self.size >= SLICE_BYTES

    async def turn(self) -> None:
        """Let the loop turn, and begin a new slice."""
        self.rows = self.size = 0
        await asyncio.sleep(self._pause_s())


class Fold:
    """A thread's state and how far its history is folded.  The state is changed in place."""

    __slots__ = ("bytes_since", "epoch", "fault", "metadata", "sequence_nr", "snapshot_nr", "state")

    def __init__(
        self, state: Thread | None, sequence_nr: int, snapshot_nr: int, bytes_since: int = 0, epoch: int = 0
    ) -> None:
        self.state = state
        self.sequence_nr = sequence_nr
        self.epoch = epoch
        """The epoch of the event ``sequence_nr``."""
        self.snapshot_nr = snapshot_nr
        self.bytes_since = bytes_since
        """Bytes of payloads after the snapshot."""
        self.metadata = b""
        """Of the last event that was folded; the event of a snapshot is known by it."""
        self.fault: str | None = None
        """Why the history cannot be read; nothing is folded after that."""

    async def run(self, rows: Sequence[asyncpg.Record], pace: Pace) -> None:
        """Fold these events, which follow; ends early at a fault."""
        at = 0
        while at < len(rows) and self.fault is None:
            at = self._step(rows, at, pace)
            if pace.spent:
                await pace.turn()

    def _step(self, rows: Sequence[asyncpg.Record], at: int, pace: Pace) -> int:
        """Fold from ``at`` to the end of the slice; where to go on."""
        state, sequence_nr, size = self.state, self.sequence_nr, pace.size
        before = size
        end = min(len(rows), at + REPLAY_CHUNK - pace.rows)
        next_at = at
        seq_nr = sequence_nr
        try:
            while next_at < end and size < SLICE_BYTES:
                row = rows[next_at]
                seq_nr, payload = row["seq_nr"], row["payload"]
                if seq_nr != sequence_nr + 1:
                    self.fault = f"event {sequence_nr + 1} is missing before {seq_nr}"
                    break
                state = evolve(state, decode(row["event_type"], row["event_version"], payload), seq_nr)
                sequence_nr = seq_nr
                size += len(payload)
                next_at += 1
        except UndecodableEvent as error:
            self.fault = f"event {seq_nr}: {error}"
        except Exception as error:
            # A bug in evolve, or a history that no rule allows: this thread's alone.
            log.exception("fold failed at an event", extra={"seq_nr": seq_nr})
            self.fault = f"event {seq_nr} cannot be applied: {error!r}"
        if next_at > at:
            self.metadata = rows[next_at - 1]["metadata"]
            self.epoch = rows[next_at - 1]["epoch"]
        self.state, self.sequence_nr = state, sequence_nr
        self.bytes_since += size - before
        pace.rows += next_at - at
        pace.size = size
        return next_at
