"""A local cluster as a user runs it: real processes, through the command line alone."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner
from threadcluster_operator.main import main

from tests.support.journal_check import assert_journal_valid
from tests.support.polling import eventually

_YAML = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {{name: test}}
spec: {{shards: {shards}, replicas: {replicas}{more}}}
"""


class LocalCluster:
    """One cluster on one data directory."""

    def __init__(self, data_dir: Path, *, database_url: str | None = None, shards: int = 16) -> None:
        self.data_dir = data_dir
        self.file = data_dir.with_suffix(".yaml")
        self._shards = shards
        self._database_url = database_url
        self._port = 0

    async def up(
        self, replicas: int = 2, *, shards: int | None = None, rebalance: str = "", take_over: str = ""
    ) -> str:
        """Bring it up, or change its number of workers and its rules of moves; the command's output.

        ``take_over`` is the uid of the cluster whose database it takes.  Fails as the command fails.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        wanted = f", rebalance: {rebalance}" if rebalance else ""
        self.file.write_text(_YAML.format(shards=shards or self._shards, replicas=replicas, more=wanted))
        more = []
        if self._database_url is not None:
            given = self.file.with_suffix(".dsn")
            given.write_text(self._database_url)
            more = ["--database-url-file", str(given)]
        if take_over:
            more += ["--take-over", take_over]
        code, output = await self.command("up", "-f", str(self.file), "--port", str(self._port), "--detach", *more)
        assert code == 0, output
        self._port = int((await self.status())["url"].rsplit(":", 1)[1])
        return output

    @property
    def admin_dsn(self) -> str:
        """The DSN of the login that owns the schema, with its password."""
        return (self.data_dir / "dsn-migrate").read_text().strip()

    async def down(self) -> None:
        """Stop it in order."""
        code, output = await self.command("down")
        assert code == 0, output

    async def status(self) -> dict[str, Any]:
        """The document of `status -o json`."""
        code, output = await self.command("status", "-o", "json")
        assert code in (0, 3), output
        found: dict[str, Any] = json.loads(output[output.index("{") : output.rindex("}") + 1])
        return found

    async def command(self, *words: str) -> tuple[int, str]:
        """Run `threadcluster local …` on the data directory: its exit code and output."""
        return await self.verb("local", *words)

    async def verb(self, *words: str) -> tuple[int, str]:
        """Run `threadcluster …` on the data directory: its exit code and output."""
        known = 2 if words[0] == "local" else 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "threadcluster_operator.main", *words[:known], "--data-dir", str(self.data_dir), *words[known:]),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(120):
            out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def does(self, *words: str) -> str:
        """Run `threadcluster …`, which must succeed; its output."""
        code, output = await self.verb(*words)
        assert code == 0, output
        return output

    async def refuses(self, *words: str, code: int = 1) -> str:
        """Run `threadcluster …`, which must fail with a sentence; that."""
        found, output = await self.verb(*words)
        assert found == code, output
        assert "Traceback" not in output
        return output

    async def shards(self) -> list[dict[str, Any]]:
        """The document of `shards -o json`."""
        found: list[dict[str, Any]] = json.loads(await self.does("shards", "-o", "json"))["shards"]
        return found

    async def owners(self) -> list[str]:
        """The owner of each shard, from 0."""
        return [row["owner"] for row in await self.shards()]

    async def owned(self, wanted: dict[str, int], *, within_s: float = 20.0) -> None:
        """Return once each worker owns its number of shards; fail with the actual numbers."""
        found: Counter[str] = Counter()
        try:
            async with asyncio.timeout(within_s):
                while found != Counter(wanted):
                    found = Counter(await self.owners())
        except TimeoutError:
            raise AssertionError(f"{found}, not {wanted}, within {within_s} s") from None

    async def urls(self) -> list[str]:
        """Each worker's own URL, the public one first."""
        found = await self.status()
        return [found["url"], *(worker["address"] for worker in found["workers"])]

    async def ready(self, *, within_s: float = 60.0) -> dict[str, Any]:
        """The status, once it says ready."""
        last: dict[str, Any] = {}
        async with asyncio.timeout(within_s):
            while not last.get("ready"):
                last = await self.status()
        return last

    async def kill_everything(self) -> None:
        """SIGKILL to the supervisor, Postgres with all its backends, and every worker, as a power cut does."""
        found = await self.status()
        pids = {found["supervisor"]["pid"], found["postgres"]["pid"], *(worker["pid"] for worker in found["workers"])}
        processes = [psutil.Process(pid) for pid in pids if pid is not None]
        everything = [*processes, *(child for process in processes for child in _children(process))]
        for process in everything:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await eventually(lambda: not any(_lives(process) for process in everything), what="every process is gone")

    async def fsck(self) -> None:
        """Fail unless the journal proves itself."""
        await assert_journal_valid((self.data_dir / "dsn").read_text().strip())


class QuickCluster(LocalCluster):
    """A cluster whose commands run in this process: real ones of real workers, without the start of an interpreter."""

    async def verb(self, *words: str) -> tuple[int, str]:
        """Run `threadcluster …` on the data directory: its exit code and output; of a success what is for standard output."""
        known = 2 if words[0] == "local" else 1
        line = [*words[:known], "--data-dir", str(self.data_dir), *words[known:]]
        result = await asyncio.to_thread(CliRunner().invoke, main, line)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.exit_code, result.output if result.exit_code else result.stdout


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def local_cluster(
    data_dir: Path, replicas: int = 2, *, database_url: str | None = None, shards: int = 16
) -> AsyncIterator[LocalCluster]:
    """A running cluster, taken down at the end."""
    cluster = LocalCluster(data_dir, database_url=database_url, shards=shards)
    await cluster.up(replicas)
    try:
        yield cluster
    finally:
        code, output = await cluster.command("down")
        assert code == 0, output
