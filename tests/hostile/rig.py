"""The rig of the hostile corpus: a real worker on a real Postgres, a well-behaved client beside it, and what is measured.

`Rig.attack` plays inputs against the worker and gives a `Verdict`: the longest turn of the worker's loop while they ran,
what the well-behaved client met, and whether shards changed hands.  `Rig.settle` waits until all descriptors are back.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from ulid import ULID

from tests.hostile.inputs import HostileInput, Port
from tests.hostile.worker_process import TURNS

HOST: Final = "127.0.0.1"
SECRET: Final = "a secret of sixteen bytes or more"
TURN_BOUND_MS: Final = 50.0
RSS_BOUND_MIB: Final = 256.0
_CLIENT_PAUSE_S: Final = 0.05
_MESSAGES_A_THREAD: Final = 1_000
"""The well-behaved client begins another thread then: a thread holds 5,000 live messages."""
_CLIENT_PATIENCE_S: Final = 20.0
_QUIET_S: Final = 0.7
"""Time without an answer after which a client of raw bytes disconnects."""
_INPUT_S: Final = 25.0
"""No input takes longer; the rest of it is given up."""
_SPARE_DESCRIPTORS: Final = 6
"""Connections of the journal that the worker opens when it needs them."""


@dataclass(slots=True)
class Verdict:
    """Measurements while some inputs were played."""

    names: tuple[str, ...]
    turn_ms: float = 0.0
    stack: str = ""
    failures: list[str] = field(default_factory=list)
    """Of the well-behaved client."""
    requests: int = 0
    slowest_s: float = 0.0
    epochs_changed: bool = False

    @property
    def complaints(self) -> list[str]:
        """Why this is no pass; empty when it is one."""
        name = ", ".join(self.names)
        found = [f"{name}: the well-behaved client: {failure}" for failure in self.failures[:3]]
        if self.turn_ms > TURN_BOUND_MS:
            found.append(f"{name}: a turn of {self.turn_ms:.0f} ms of CPU, at {self.stack}")
        if self.epochs_changed:
            found.append(f"{name}: a shard changed hands")
        return found


class Rig:
    """One worker under attack."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self.log = folder / "worker.log"
        self._turns = folder / "turns.jsonl"
        self._read_to = 0
        self._process = process
        self._session = session
        bound = json.loads((folder / "ready.json").read_text())
        self.ports = {Port.PUBLIC: bound["publicPort"], Port.MANAGEMENT: bound["managementPort"]}
        self._account, self._thread = str(ULID()), ""
        self._failures: list[str] = []
        self._requests = 0
        self._slowest_s = 0.0
        self._messages = 0
        """Messages in the thread of now."""
        self._neighbour: asyncio.Task[None] | None = None
        self._descriptors = 0
        self._epochs: object = None

    async def begin(self) -> None:
        """Warm the worker up, take its accounts, and start the well-behaved client."""
        await self._begin_thread()
        for _ in range(3):
            await asyncio.gather(*(self._exchange() for _ in range(4)))
        self._epochs = await self._cluster()
        self._descriptors = self.open_descriptors + _SPARE_DESCRIPTORS
        self._failures.clear()
        self._new_turns()
        self._neighbour = asyncio.create_task(self._behave(), name="well-behaved-client")

    async def attack(self, inputs: Iterable[HostileInput], *, at_once: int = 1) -> Verdict:
        """Play the inputs, ``at_once`` of them at a time."""
        played = tuple(inputs)
        places = asyncio.Semaphore(at_once)

        async def play(given: HostileInput) -> None:
            async with places:
                await self._play(given)

        self._failures.clear()
        requests, self._slowest_s = self._requests, 0.0
        began = time.monotonic()
        await asyncio.gather(*(play(given) for given in played))
        await asyncio.sleep(0.02)  # the last turn is written down when it has ended
        turns = [turn for turn in self._new_turns() if turn["ended"] >= began]
        cpu_ms, stack = max(((turn["cpu_ms"], turn["stack"]) for turn in turns), default=(0.0, ""))
        assert self._process.returncode is None, f"the worker ended: {self.log.read_text()[-2000:]}"
        return Verdict(
            names=tuple(given.name for given in played),
            turn_ms=cpu_ms,
            stack=stack,
            failures=list(self._failures),
            requests=self._requests - requests,
            slowest_s=self._slowest_s,
            epochs_changed=await self._cluster() != self._epochs,
        )

    async def settle(self, within_s: float = 60.0, *, rss_bound_mib: float = RSS_BOUND_MIB) -> list[str]:
        """Wait until the descriptors are back; complaints about them, about memory and about the log."""
        deadline = time.monotonic() + within_s
        while (left := self.open_descriptors) > self._descriptors and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        found = []
        if left > self._descriptors:
            found.append(f"{left - self._descriptors} descriptors are not back after {within_s:g} s")
        if (rss := self.peak_rss_mib) > rss_bound_mib:
            found.append(f"the worker took {rss:.0f} MiB")
        return (
            found
            + [line for line in self.log.read_text().splitlines() if "Traceback" in line or "Unhandled" in line][:3]
        )

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self._process.pid

    @property
    def peak_rss_mib(self) -> float:
        """The most memory the worker has taken."""
        return self._memory("VmHWM")

    @property
    def rss_mib(self) -> float:
        """The memory it takes now."""
        return self._memory("VmRSS")

    def _memory(self, which: str) -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(which):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {which}")

    @property
    def open_descriptors(self) -> int:
        """How many files and sockets the worker has open."""
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def _new_turns(self) -> list[dict[str, Any]]:  # Any: lines of JSON
        if not self._turns.exists():
            return []
        with self._turns.open() as lines:
            lines.seek(self._read_to)
            found = lines.read()
            whole, _, _ = found.rpartition("\n")
            self._read_to += len(whole.encode()) + bool(whole)
        return [json.loads(line) for line in whole.splitlines()]

    async def _play(self, given: HostileInput) -> None:
        port = self.ports[given.port]
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_INPUT_S):
                if given.act is not None:
                    await given.act(HOST, port)
                elif given.raw is not None:
                    raw = given.raw()
                    await asyncio.gather(*(send_raw(port, raw) for _ in range(given.connections)))

    async def _ask(self, method: str, path: str, body: object = None) -> Any:  # Any: an answer of any shape
        url = f"http://{HOST}:{self.ports[Port.PUBLIC]}{path}"
        async with asyncio.timeout(_CLIENT_PATIENCE_S):
            async with self._session.request(method, url, json=body) as answer:
                found = await answer.read()
                assert answer.status == 200, f"{method} {path}: {answer.status} {found[:200]!r}"
                return json.loads(found)

    async def _begin_thread(self) -> None:
        body = {"accountId": self._account, "title": "t", "administratorIds": [self._account], "memberIds": []}
        self._thread = (await self._ask("POST", "/v1/threads/create", body))["threadId"]
        self._messages = 0

    async def _exchange(self) -> None:
        if self._messages >= _MESSAGES_A_THREAD:
            await self._begin_thread()
        self._messages += 1
        path = f"/v1/threads/{self._thread}"
        began = time.monotonic()
        body = {"accountId": self._account, "messages": [{"text": "all is well"}]}
        await self._ask("POST", f"{path}/messages/add", body)
        await self._ask("GET", f"{path}/messages?account_id={self._account}&limit=3")
        self._slowest_s = max(self._slowest_s, time.monotonic() - began)
        self._requests += 2

    async def _behave(self) -> None:
        while True:
            try:
                await self._exchange()
            except Exception as error:
                self._failures.append(repr(error))
            await asyncio.sleep(_CLIENT_PAUSE_S)

    async def _cluster(self) -> object:
        """Owner and epoch, by shard."""
        async with self._session.get(f"http://{HOST}:{self.ports[Port.MANAGEMENT]}/cluster") as answer:
            found = await answer.json()
        shards = sorted((shard["id"], shard["owner"], shard["epoch"]) for shard in found["shards"])
        return shards, [worker["incarnation"] for worker in found["workers"]]

    async def end(self) -> None:
        """Stop the client, then the worker."""
        if self._neighbour is not None:
            self._neighbour.cancel()
            await asyncio.gather(self._neighbour, return_exceptions=True)


async def send_raw(port: int, raw: bytes) -> bytes:
    """Send bytes, read until the end or until nothing more comes, hang up; the beginning of what came."""
    reader, writer = await asyncio.open_connection(HOST, port)
    came = b""
    try:
        with suppress(TimeoutError, OSError):
            writer.write(raw)
            while True:
                async with asyncio.timeout(_QUIET_S):
                    more = await reader.read(1 << 16)
                if not more:
                    break
                if len(came) < 1 << 16:
                    came += more
    finally:
        writer.transport.abort()
    return came


@asynccontextmanager
async def rig(folder: Path, dsn: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Rig]:
    """A worker on this database, of eight shards, with these settings beside the usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    environment = {
        "SHARD_WORKER_NAME": "w0",
        "SHARD_WORKER_CLUSTER": "test",
        "SHARD_WORKER_DSN": dsn,
        "SHARD_WORKER_SECRET": SECRET,
        "SHARD_WORKER_PUBLIC_PORT": "0",
        "SHARD_WORKER_MANAGEMENT_PORT": "0",
        "SHARD_WORKER_READY_FILE": str(ready),
        "SHARD_WORKER_LOG_FORMAT": "text",
        TURNS: str(folder / "turns.jsonl"),
        **(settings or {}),
    }
    with (folder / "worker.log").open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.hostile.worker_process"),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        async with asyncio.timeout(60):
            while not ready.exists():
                assert process.returncode is None, f"the worker ended: {(folder / 'worker.log').read_text()[-2000:]}"
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession() as session:
            attacked = Rig(folder, process, session)
            await attacked.begin()
            try:
                yield attacked
            finally:
                await attacked.end()
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
