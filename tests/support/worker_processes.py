"""Real worker processes on one database, without a supervisor: a test starts, stops, freezes and kills each itself."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from shard_worker.contract_tls import INTERNAL_NAME, internal_client_context, parse_secrets
from tests.support.journal_check import assert_journal_valid

SECRET = "a secret for tests"
_MAX_MESSAGES = 1_000_000
"""Messages in a thread: more than any test posts, because fifty rounds on one thread pass the default of 5,000."""


class WorkerProcess:
    """One worker: its process of now, and where it can be asked."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], shared_fd: int) -> None:
        self.name = name
        self.program = "shard_worker.main"
        """The module that its next process runs."""
        self.checkout: Path | None = None
        """Another checkout of the project whose code and ``.venv`` its next process runs; None for this one."""
        self.settings: dict[str, str] = {}
        """Variables of its next process beside the common ones."""
        self.log = folder / f"{name}.log"
        self._ready = folder / f"{name}.json"
        self._environment = environment
        self._shared_fd = shared_fd
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start its process, and return when it serves."""
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable if self.checkout is None else str(self.checkout / ".venv" / "bin" / "python"),
                *("-m", self.program, "run"),
                cwd=self.checkout,  # `-m` looks there first
                env={
                    **os.environ,
                    **self._environment,
                    **self.settings,
                    "SHARD_WORKER_NAME": self.name,
                    "SHARD_WORKER_READY_FILE": str(self._ready),
                    "SHARD_WORKER_PUBLIC_FD": str(self._shared_fd),
                },
                pass_fds=(self._shared_fd,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        async with asyncio.timeout(90):  # a busy machine takes its time to start an interpreter
            while not self._ready.exists():
                assert self._process.returncode is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
                await asyncio.sleep(0.01)

    def _bound(self, port: str) -> str:
        found = json.loads(self._ready.read_text())
        return f"http://127.0.0.1:{found[port]}"

    @property
    def url(self) -> str:
        """Its own public address."""
        return self._bound("publicPort")

    @property
    def management(self) -> str:
        """Its management address."""
        return self._bound("managementPort")

    @property
    def alive(self) -> bool:
        """Whether its process runs, or is stopped."""
        return self._process is not None and self._process.returncode is None

    @property
    def ready(self) -> bool:
        """Whether its process runs, or is stopped, and has served: its addresses are known."""
        return self.alive and self._ready.exists()

    @property
    def pid(self) -> int:
        """Its process's id."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self, within_s: float = 30.0) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    async def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()


class Workers:
    """The workers by name, and what may be asked of any of them."""

    def __init__(
        self, folder: Path, dsn: str, shards: int, session: aiohttp.ClientSession, shared: socket.socket
    ) -> None:
        self.shards = shards
        self.by_name: dict[str, WorkerProcess] = {}
        self._folder = folder
        self._session = session
        self._shared = shared
        self._dsn_file = folder / "dsn"
        self._dsn_file.write_text(dsn)
        self.secret_file = folder / "secret"
        """May be written again while the workers run: they read it again."""
        self.secret_file.write_text(SECRET)
        self._environment = {
            "SHARD_WORKER_CLUSTER": "test",
            "SHARD_WORKER_DSN_FILE": str(self._dsn_file),
            "SHARD_WORKER_SECRET_FILE": str(self.secret_file),
            "SHARD_WORKER_SHARDS": str(shards),
            "SHARD_WORKER_HOST": "127.0.0.1",
            "SHARD_WORKER_BIND": "127.0.0.1",
            "SHARD_WORKER_PUBLIC_PORT": "0",
            "SHARD_WORKER_MANAGEMENT_PORT": "0",
            "SHARD_WORKER_MAX_MESSAGES": str(_MAX_MESSAGES),
        }

    def add(self, name: str, *, dsn: str | None = None) -> WorkerProcess:
        """A worker that is still to be started, on ``dsn`` where it is given (a proxy's); the one that there is, where
        there is one.
        """
        environment = dict(self._environment)
        if dsn is not None:
            environment["SHARD_WORKER_DSN_FILE"] = str(self._folder / f"{name}.dsn")
            (self._folder / f"{name}.dsn").write_text(dsn)
        made = WorkerProcess(name, self._folder, environment, self._shared.fileno())
        return self.by_name.setdefault(name, made)

    async def start(self, *names: str, dsn: str | None = None) -> None:
        """Start workers, all at once; on ``dsn`` where it is given (a proxy's)."""
        for name in names:
            self.add(name, dsn=dsn)
        await asyncio.gather(*[self.by_name[name].start() for name in names])

    @property
    def url(self) -> str:
        """The address that all workers serve, as they do under a supervisor; it outlives every one of them."""
        return f"http://127.0.0.1:{self._shared.getsockname()[1]}"

    @property
    def urls(self) -> list[str]:
        """The public addresses of the workers whose processes run and have served."""
        return [worker.url for worker in self.by_name.values() if worker.ready]

    async def ask(
        self, method: str, path: str, body: object = None, *, of: str | None = None, within_s: float = 5.0
    ) -> Any:  # JSON
        """Answer of a worker's management port; of any worker, when none is named.  Fails on anything but a 2xx."""
        names = [of] if of is not None else [name for name, worker in self.by_name.items() if worker.ready]
        failure: Exception | None = None
        for name in names:
            try:
                async with self._session.request(
                    method,
                    self.by_name[name].management.replace("http:", "https:") + path,
                    json=body,
                    ssl=internal_client_context(parse_secrets(self.secret_file.read_bytes())),
                    server_hostname=INTERNAL_NAME,
                    timeout=aiohttp.ClientTimeout(total=within_s),
                ) as response:
                    answer = await response.json(content_type=None)
                    if response.status < 300:
                        return answer
                    failure = AssertionError(f"{method} {path} of {name}: {response.status} {answer}")
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = error
        assert failure is not None, "no worker runs"
        raise failure

    async def ownership(self, *, of: str | None = None) -> Any:  # JSON
        """The ownership, as a worker sees it."""
        return await self.ask("GET", "/internal/v1/ownership", of=of)

    async def cluster(self, *, of: str) -> Any:  # JSON
        """The cluster as a worker shows it to people."""
        async with self._session.get(f"{self.by_name[of].management}/cluster") as response:
            return await response.json()

    async def metrics(self, *, of: str) -> dict[str, float]:
        """A worker's metrics, by the name and labels of each sample."""
        async with self._session.get(f"{self.by_name[of].management}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in samples}

    async def plan(self, targets: Mapping[int, str]) -> None:
        """Have shards go where ``targets`` says; tried again while other plans come first."""
        wanted = [{"shard": shard, "target": worker, "reason": "test"} for shard, worker in targets.items()]
        async with asyncio.timeout(60):
            while True:
                version = (await self.ownership())["planVersion"]
                try:
                    await self.ask(
                        "PUT", "/internal/v1/targets", {"planVersion": version, "hash": "test", "targets": wanted}
                    )
                except (AssertionError, aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(0.02)
                else:
                    return

    async def spread(self, *names: str) -> None:
        """Share all shards among these workers, round and round, and wait until each serves its own."""
        await self.move({shard: names[shard % len(names)] for shard in range(self.shards)})

    async def move(self, targets: Mapping[int, str], *, within_s: float = 90.0) -> float:
        """Have shards go where ``targets`` says, and return once they are served there; in how many seconds."""
        began = time.monotonic()
        await self.plan(targets)
        async with asyncio.timeout(within_s):
            for name in sorted(set(targets.values())):
                wanted = {shard for shard, worker in targets.items() if worker == name}
                while not wanted <= set((await self.ownership(of=name))["serving"]):
                    await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def served(self, *names: str, within_s: float = 30.0) -> float:
        """Return once these workers together serve every shard, each what it owns; how long that took, in seconds."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while True:
                serving: list[int] = []
                for name in names:
                    with suppress(aiohttp.ClientError, TimeoutError, AssertionError):
                        serving += (await self.ownership(of=name))["serving"]
                if sorted(serving) == list(range(self.shards)):
                    return time.monotonic() - began
                await asyncio.sleep(0.01)

    async def owners(self) -> dict[int, str | None]:
        """By shard, as any worker sees it."""
        return {row["id"]: row["owner"] for row in (await self.ownership())["shards"]}

    def logged(self, words: str) -> list[str]:
        """All lines of all logs with these words."""
        return [
            line
            for worker in self.by_name.values()
            for line in worker.log.read_text(errors="replace").splitlines()
            if words in line
        ]

    async def fsck(self) -> None:
        """Fail unless the journal proves itself."""
        await assert_journal_valid(self._dsn_file.read_text())


@asynccontextmanager
async def workers_on(dsn: str, folder: Path, *names: str, shards: int = 8) -> AsyncIterator[Workers]:
    """Workers that share all shards; ended at the end, whatever happened."""
    folder.mkdir(parents=True, exist_ok=True)
    async with aiohttp.ClientSession() as session:
        shared = socket.create_server(("127.0.0.1", 0), backlog=1024)
        workers = Workers(folder, dsn, shards, session, shared)
        try:
            await workers.start(*names)
            if names:
                await workers.spread(*names)
            yield workers
        finally:
            for worker in workers.by_name.values():
                if worker.alive:
                    await worker.kill()
            shared.close()
