"""The hub: one snapshot for all viewers, however many there are.

The hub takes the platform's last look at the cluster a few times a second, encodes it once, and hands the same bytes to
every viewer.  The moves are read from the database when an owner has changed, once for all viewers and also without any:
the number of viewers changes nothing that a worker or the database is asked.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec

from shard_worker.contract_internal import HistoryEntry
from threadcluster_operator.console.backend import ConsoleBackend
from threadcluster_operator.console.snapshot import ages_of, epochs_of, snapshot_of
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused

log = logging.getLogger(__name__)

_TURN_S: Final = 0.25
_TURNS_A_PULSE: Final = 4
"""Pulses show that the stream lives: one a second."""
MOVES_SHOWN: Final = 100
"""Changes of owner that a snapshot of the moves holds."""
_PAUSE_LATE_S: Final = 10.0
"""Time after a handoff within which its pause is recorded; until then the moves are read again, once a second."""
VIEWERS_MOST: Final = 32
LINES_MOST: Final = 256
"""Lines of chat that wait for one viewer; then the stream that they come from is read no further."""


class TooManyViewers(Exception):
    """As many streams are open as may be."""


class Viewer:
    """One stream: the newest snapshot and moves, whatever the viewer has missed, and every line of its chats."""

    def __init__(self) -> None:
        self._newest: dict[str, bytes] = {}
        """By kind, the line that waits."""
        self._lines: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()

    def show(self, kind: str, line: bytes) -> None:
        """Send a line in place of the last one of its kind, if that still waits."""
        self._newest[kind] = line
        self._wake.set()

    async def add(self, line: bytes) -> None:
        """Send a line after those before; waits while too many do."""
        await self._space.wait()
        self._lines.append(line)
        if len(self._lines) >= LINES_MOST:
            self._space.clear()
        self._wake.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines to be sent next, without end."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = [*self._newest.values(), *self._lines]
            self._newest.clear()
            self._lines.clear()
            self._space.set()
            if batch:
                yield b"".join(batch)


class SnapshotHub:
    """Makes the snapshots of one cluster, and hands them to the viewers."""

    def __init__(self, backend: ConsoleBackend) -> None:
        self._backend = backend
        self._viewers: set[Viewer] = set()
        self._shown: dict[str, bytes] = {}
        """By kind, the last line, which a new viewer gets at once."""
        self._epochs = 0
        """The sum of epochs that the moves were read for."""
        self._moves: Sequence[HistoryEntry] = ()

    @contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """A viewer, until the block ends.  Raises `TooManyViewers`."""
        if len(self._viewers) >= VIEWERS_MOST:
            raise TooManyViewers
        if not self._viewers:
            self._look()
        viewer = Viewer()
        for kind, line in self._shown.items():
            viewer.show(kind, line)
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def run(self) -> None:
        """Look without end."""
        turn = 0
        while True:
            if self._viewers:
                self._look()
            if turn % _TURNS_A_PULSE == 0:
                facts = self._backend.facts()
                self._show("pulse", ages_of(facts, datetime.now(UTC)))
                if epochs_of(facts) != self._epochs or self._awaits_pause():
                    await self._read_moves(epochs_of(facts))
            turn += 1
            await asyncio.sleep(_TURN_S)

    def _look(self) -> None:
        self._show("snapshot", snapshot_of(self._backend.facts(), self._backend.commands()))

    def _show(self, kind: str, document: object) -> None:
        line = msgspec.json.encode(document) + b"\n"
        if line == self._shown.get(kind) and kind != "pulse":
            return
        self._shown[kind] = line
        for viewer in self._viewers:
            viewer.show(kind, line)

    async def _read_moves(self, epochs: int) -> None:
        try:
            self._moves = await self._backend.history(MOVES_SHOWN)
        except (NoWorkerAvailable, WorkerRefused) as error:
            log.info("moves not read", extra={"cause": str(error)})
            return
        self._epochs = epochs
        self._show("moves", {"kind": "moves", "changes": msgspec.to_builtins(self._moves)})

    def _awaits_pause(self) -> bool:
        """Whether a handoff of just now has no pause yet."""
        now = datetime.now(UTC)
        return any(
            change.kind == "handoff"
            and change.pause_ms is None
            and (now - datetime.fromisoformat(change.at)).total_seconds() < _PAUSE_LATE_S
            for change in self._moves
        )
