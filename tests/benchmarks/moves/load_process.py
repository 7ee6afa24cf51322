"""The load, as a process: lanes, each one virtual client that sends one command after another and thinks in between.

Run as ``python -m tests.benchmarks.moves.load_process FOLDER`` with `Orders` in ``FOLDER/orders.json``; it writes the tape into
the same folder when its standard input ends.  A line ``[17, 18]`` there sets which shards are probed: a probe is a lane
with hardly any thinking time.  The load is in a process of its own because the process that moves shards would delay
it.

Every command has an idempotency key and is sent again, with the same key, until it is accepted, as the API tells
clients to do; every attempt that was not accepted at once is on the tape as what it was.
"""

import asyncio
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from tests.benchmarks.moves.recording import ACCEPTED, NOT_NOW, NOT_SENT, REFUSED, UNKNOWN, Account, Recording, Row
from tests.support.load.client import Outcome, classify
from tests.support.load.target import Target, parse_target
from tests.support.load.wire import Connection, Lost, request_bytes

_GRACE_S = 15.0
"""How long a lane may go on about its last command after the end."""
_AGAIN_S = 0.05
_OUTCOME = {Outcome.ACCEPTED: ACCEPTED, Outcome.REFUSED: REFUSED, Outcome.NOT_NOW: NOT_NOW, Outcome.UNKNOWN: UNKNOWN}


class Thread(Struct, frozen=True):
    """A thread to write to: the path and the body of one more message."""

    number: int
    shard: int
    path: str
    body: str


class Orders(Struct, frozen=True):
    """Settings of the load.  ``per_shard`` lanes a shard think ``think_s`` on average; a lane gives up after
    ``timeout_s``.
    """

    urls: list[str]
    threads: list[Thread]
    per_shard: int
    think_s: float
    probe_think_s: float
    timeout_s: float
    seed: int


class _Lane:
    def __init__(
        self, load: "_Load", threads: Sequence[Thread], *, via: int, think_s: float, probe: bool, name: str
    ) -> None:
        self._load = load
        self._threads = threads
        self._via = via
        self._think_s = think_s
        self._probe = probe
        self._name = name
        self._connection: Connection | None = None
        self.over = False

    async def run(self, first_s: float) -> None:
        """Send, think, send, until the load ends."""
        load, chance = self._load, self._load.chance
        await asyncio.sleep(first_s)
        number = chance.randrange(len(self._threads))
        while not (self.over or load.over):
            await self._command(self._threads[number % len(self._threads)], f"{self._name}-{number}")
            number += 1
            if not (self.over or load.over):
                await asyncio.sleep(self._think_s * (1.0 if self._probe else chance.uniform(0.5, 1.5)))
        if self._connection is not None:
            self._connection.close()

    async def _command(self, thread: Thread, key: str) -> None:
        load = self._load
        load.commands += 1
        while True:
            outcome = await self._attempt(thread, key)
            if outcome == ACCEPTED:
                load.kept += 1
                return
            if outcome == REFUSED or time.monotonic() > load.patience_ends:
                load.given_up += 1
                return
            if self._connection is not None:
                self._connection.close()
            self._via = (self._via + 1) % len(load.targets)
            await asyncio.sleep(_AGAIN_S)

    async def _attempt(self, thread: Thread, key: str) -> int:
        load, via = self._load, self._via
        target = load.targets[via]
        request = request_bytes("POST", thread.path, target.authority, thread.body.encode(), key)
        began = time.monotonic()
        try:
            if self._connection is None or not self._connection.usable:
                self._connection = await Connection.open(target, load.orders.timeout_s)
            began = time.monotonic()
            reply = await self._connection.ask(request, load.orders.timeout_s)
        except Lost as lost:
            if str(lost) == "the connection was closed while idle":
                return await self._attempt(thread, key)  # the server's right, and nothing was sent
            outcome = UNKNOWN if lost.sent else NOT_SENT
            load.codes[f"lost: {lost}" if lost.sent else "cannot connect"] += 1
        else:
            answered = time.monotonic()
            if 200 <= reply.status < 300:
                load.tape.add(Row(began, answered, thread.shard, thread.number, via, ACCEPTED, self._probe))
                return ACCEPTED
            attempt = classify(reply)
            outcome = _OUTCOME[attempt.outcome]
            load.codes[f"{reply.status} {attempt.code}"] += 1
        load.tape.add(Row(began, time.monotonic(), thread.shard, thread.number, via, outcome, self._probe))
        return outcome


class _Load:
    """All lanes of a run."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.targets: list[Target] = [parse_target(url) for url in orders.urls]
        self.chance = random.Random(orders.seed)
        self.tape = Recording()
        self.codes: Counter[str] = Counter()
        self.commands = self.kept = self.given_up = 0
        self.over = False
        self.patience_ends = float("inf")
        self._by_shard: dict[int, list[Thread]] = {}
        for thread in orders.threads:
            self._by_shard.setdefault(thread.shard, []).append(thread)
        self._tasks: set[asyncio.Task[None]] = set()
        self._probes: dict[int, _Lane] = {}
        self._names = 0

    def begin(self) -> None:
        """Start the lanes, each at its own moment."""
        think_s = self.orders.think_s
        for shard, threads in sorted(self._by_shard.items()):
            for place in range(self.orders.per_shard):
                mine = threads[place :: self.orders.per_shard] or threads
                lane = self._lane(mine, via=shard + place, think_s=think_s, probe=False)
                self._start(lane, self.chance.uniform(0.0, think_s))

    def probe(self, shards: list[int]) -> None:
        """Probe these shards and no others."""
        for shard in [each for each in self._probes if each not in shards]:
            self._probes.pop(shard).over = True
        for shard in shards:
            if shard not in self._probes:
                via = self.chance.randrange(len(self.targets))
                lane = self._lane(self._by_shard[shard], via=via, think_s=self.orders.probe_think_s, probe=True)
                self._probes[shard] = lane
                self._start(lane, self.chance.uniform(0.0, self.orders.probe_think_s))

    async def finish(self) -> None:
        """Let every lane have its last answer."""
        self.over = True
        self.patience_ends = time.monotonic() + _GRACE_S
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * _GRACE_S)

    def _lane(self, threads: Sequence[Thread], *, via: int, think_s: float, probe: bool) -> _Lane:
        self._names += 1
        name = f"{self.orders.seed}-{os.getpid()}-{self._names}"
        return _Lane(self, threads, via=via % len(self.targets), think_s=think_s, probe=probe, name=name)

    def _start(self, lane: _Lane, first_s: float) -> None:
        task = asyncio.create_task(lane.run(first_s), name="lane")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.given_up += 1
            self.codes[f"lane: {task.exception()!r}"] += 1


async def _main(folder: Path) -> None:
    load = _Load(msgspec.json.decode((folder / "orders.json").read_bytes(), type=Orders))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection of a grown tape would be a pause of the generator's own
    cpu_began, began = time.process_time(), time.monotonic()
    load.begin()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async for line in reader:
        load.probe(msgspec.json.decode(line, type=list[int]))
    await load.finish()
    account = Account(
        time.monotonic() - began,
        time.process_time() - cpu_began,
        load.commands,
        load.kept,
        load.given_up,
        dict(load.codes),
    )
    load.tape.write(folder, account)


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1])))
