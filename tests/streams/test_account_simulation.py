"""Simulation of accounts' streams: random appends, late commits, resumes and fail-overs, in an order that a seed decides.

The streams are the real ones; the journal is in memory (`tests.streams.account_world`).  Every event that the account may see is
shown to every client that has been there since before, at least once and in order within its thread, or a reset comes before.
"""

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shard_worker.streams import account_catching_up, account_tail
from shard_worker.streams.account_follower import AccountFollower
from shard_worker.streams.account_hub import AccountStreams
from shard_worker.streams.account_position import PositionCodec
from shard_worker.streams.account_tail import JournalTail
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.tasks import BackgroundTasks
from tests.streams.account_world import Stored, World
from tests.support.load.follower import Event, EventParser
from tests.support.polling import eventually


class Client:
    """One client, which reconnects with the last position; also the sink of its connection of now."""

    def __init__(self, world: World, streams: AccountStreams) -> None:
        self._world = world
        self._streams = streams
        self.parser = EventParser()
        self.paused = False
        self.follower: AccountFollower | None = None
        self.seen: set[tuple[str, int, int]] = set()
        self.begun: set[tuple[str, int, int]] | None = None
        """The events that the client has without the stream: of the journal when the stream began, or of the list that it read after
        the last reset."""
        self.on_this: dict[tuple[str, int], int] = {}
        self.faults: list[str] = []
        self.resets = 0

    def count_unsent(self) -> None:
        """It is never paused."""

    def connect(self, streams: AccountStreams | None = None) -> None:
        """Open the stream, from the last position on; on another worker where one is given."""
        self._streams = streams or self._streams
        last = self.parser.last_id
        self.parser = EventParser()
        self.parser.last_id = last
        self.on_this = {}
        position = self._streams.positions.read(self._world.me, last) if last else None
        self.follower = self._streams.begin(self, self._world.me, position)

    def cut(self) -> None:
        """Lose the connection."""
        follower, self.follower = self.follower, None
        if follower is not None:
            follower.lost()

    def _stored(self) -> set[tuple[str, int, int]]:
        return {row.name for rows in self._world.shards for row in rows}

    def write(self, data: bytes) -> None:
        """Frames of the stream."""
        for event in self.parser.feed(data):
            self._got(event)

    def _got(self, event: Event) -> None:
        if event.type == "reset":
            self.resets += 1
            self.begun, self.seen = {row.name for row in self._world.listed()}, set()
            self.on_this = {}
        elif event.type == "":
            if self.begun is None:
                self.begun = self._stored()
        elif event.type == "error":
            self.faults.append(str(event))
        else:
            fields = json.loads(event.data)
            thread_id, number, epoch = fields["threadId"], fields["sequenceNr"], fields["epoch"]
            if number <= self.on_this.get((thread_id, 0), 0):
                self.faults.append(f"{thread_id}: {number} twice or out of order on one connection")
            self.on_this[thread_id, 0] = number
            self.seen.add((thread_id, number, epoch))

    def unsent(self) -> int:
        """It reads at once."""
        return 0

    def may_hold(self, size: int) -> bool:
        """It reads at once."""
        return size >= 0

    async def drained(self, within_s: float) -> bool:
        """It reads at once."""
        return within_s > 0

    def end(self, data: bytes) -> None:
        """The stream is over."""
        self.faults.append(f"ended: {data!r}")

    def abort(self) -> None:
        """The stream is over."""
        self.faults.append("aborted")

    def lacks(self, visible: list[Stored]) -> list[tuple[str, int, int]]:
        """The events that it should have been shown, and was not."""
        begun = self.begun or set()
        return [row.name for row in visible if row.name not in begun and row.name not in self.seen]


def _streams_of(world: World, tasks: BackgroundTasks) -> AccountStreams:
    """Account streams on a journal in memory."""
    streams = AccountStreams.__new__(AccountStreams)
    streams._streams = cast("Any", SimpleNamespace(tasks=tasks, admit=lambda _: True, release=lambda _: True))
    streams._problem = lambda _: b"{}"
    streams.metrics = StreamMetrics()
    streams.history = cast("Any", world)
    journal = SimpleNamespace(
        mark=world.mark,
        heads=world.heads_,
        new_events=world.new_events,
        read_payloads=world.read_payloads,
        offsets=world.offsets,
        unprojected=world.unprojected,
        threads=world.threads,
        first_since=world.first_since,
    )
    streams.journal = cast("Any", journal)
    streams.positions = PositionCodec(b"key")
    streams.tail = JournalTail(cast("Any", journal), streams.metrics, lambda: b"{}")
    streams._streams.budget = cast("Any", SimpleNamespace(exceeded=False))
    streams.tail.start(tasks)
    return streams


async def _run(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    tasks = BackgroundTasks()
    workers = [_streams_of(world, tasks) for _ in range(2)]
    clients = [Client(world, rng.choice(workers)) for _ in range(3)]
    try:
        for _ in range(steps):
            await _step(rng, world, workers, clients)
        world.over = True
        for shard in list(world.appends):
            world.finish(shard, stored=True)
        for client in clients:
            if client.follower is None:
                client.connect()
        for streams in workers:
            streams.tail.wake()
        await _verify(world, clients, f"seed {seed}")
    finally:
        await tasks.close()


async def _step(rng: random.Random, world: World, workers: list[AccountStreams], clients: list[Client]) -> None:
    kind = rng.random()
    client = rng.choice(clients)
    if kind < 0.12 and client.follower is None:
        client.connect(rng.choice(workers))
    elif kind < 0.12:
        client.cut()
    elif kind < 0.13:
        world.fail_over()
    elif world.step():
        for streams in workers:
            if rng.random() < 0.7:  # the worker that stored it looks at once, others some time later
                streams.tail.wake()
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)
    if kind > 0.99:
        await asyncio.sleep(0.002)


async def _verify(world: World, clients: list[Client], what: str) -> None:
    visible = world.visible_to_me()
    names = {row.name for row in visible}
    # Nothing but the history of now: a lost one ended with a reset.
    await eventually(
        lambda: all(
            client.begun is not None and not client.lacks(visible) and client.seen <= names for client in clients
        ),
        within_s=10,
        what=f"{what}: {[client.lacks(visible)[:3] for client in clients]}",
    )
    for client in clients:
        assert client.faults == [], what


async def test_no_event_is_missed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few seeds; marks come often, so that many resumes begin in the middle of something."""
    await _many(monkeypatch, seeds=9, steps=200)


@pytest.mark.soak
async def test_no_event_is_missed_in_many_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many seeds."""
    await _many(monkeypatch, seeds=1_500, steps=300)


async def _many(monkeypatch: pytest.MonkeyPatch, *, seeds: int, steps: int) -> None:
    monkeypatch.setattr(account_tail, "_MARK_S", 0.0)
    monkeypatch.setattr(account_tail, "_PACE_S", 0.0)
    monkeypatch.setattr(account_tail, "_LOOK_S", 0.01)
    monkeypatch.setattr(account_tail, "_PAUSE_S", 0.005)
    monkeypatch.setattr(account_catching_up, "_PAUSE_S", 0.005)
    for seed in range(seeds):
        await _run(seed, steps)
