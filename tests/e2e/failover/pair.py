"""A real primary with a streaming standby, both from the embedded Postgres, and the address that workers are given.

Two servers on two fixed ports take turns: after a fail-over the loser is made again as a standby of the winner by
``pg_basebackup``.  The standby streams through a proxy, so that its stream can be stopped (a tail that is acknowledged
and not replicated).  Workers connect through another proxy, `address`, whose target is switched as a DNS name or a
floating address would be; or by a DSN with both hosts.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from threadcluster_operator.local.postgres import EmbeddedPostgres, _binary

from tests.support.tcp_proxy import TcpProxy

_STANDBY = "standby"


class Node:
    """One server of the pair: primary, standby, or gone."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder)
        self.folder = folder

    @property
    def dsn(self) -> str:
        """Straight to this server."""
        return self.server.dsn

    @property
    def host(self) -> str:
        """As a DSN names it."""
        return f"127.0.0.1:{self.server.port}"

    async def sql(self, query: str, *arguments: object) -> Any:  # the value's own type
        """One value, on a connection of its own."""
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            connection.terminate()

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows, on a connection of their own."""
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            connection.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Send the server and all its processes a signal."""
        pid = self.server.pid
        if pid is None:
            return
        postmaster = psutil.Process(pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, number)

    async def kill(self) -> None:
        """SIGKILL to every process of the server, as a power cut does."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        await self.server.wait()


class Pair:
    """Primary, standby and the proxies."""

    def __init__(self, folder: Path, address: TcpProxy, stream: TcpProxy) -> None:
        self.primary = Node(folder / "left")
        self.standby = Node(folder / "right")
        self.address = address
        self.stream = stream

    @property
    def dsn(self) -> str:
        """Through the address that is switched."""
        return self.primary.dsn.replace(self.primary.host, f"127.0.0.1:{self.address.port}")

    @property
    def dsn_of_both(self) -> str:
        """Both hosts in one DSN, the first one first, whichever is the primary."""
        hosts = sorted((self.primary.host, self.standby.host))
        return self.primary.dsn.replace(self.primary.host, ",".join(hosts)) + "?target_session_attrs=read-write"

    async def start(self) -> None:
        """Start the primary; the standby comes with `attach_standby`."""
        await self.primary.server.start()
        self.address.lead_to("127.0.0.1", self.primary.server.port)

    async def attach_standby(self) -> None:
        """Make the standby from the primary, and return when it streams."""
        standby = self.standby
        if standby.server.pid is not None:
            await standby.kill()
        standby.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(standby.folder / "cluster", ignore_errors=True)
        shutil.copy(self.primary.folder / "password", standby.folder / "password")
        self.stream.heal()
        self.stream.lead_to("127.0.0.1", self.primary.server.port)
        origin = self.primary.dsn.replace(self.primary.host, f"127.0.0.1:{self.stream.port}")
        backup = await asyncio.create_subprocess_exec(
            str(_binary("pg_basebackup")),
            *("-D", str(standby.folder / "cluster"), "-X", "stream", "-c", "fast", "-R", "--no-sync"),
            *("-d", f"{origin.rsplit('/', 1)[0]}/?application_name={_STANDBY}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, output = await backup.communicate()
        assert backup.returncode == 0, output.decode()
        await standby.server.start()
        await self.replicated()

    async def replicated(self, *, within_s: float = 20.0) -> None:
        """Return when the standby has all that the primary has now."""
        position = await self.primary.sql("SELECT pg_current_wal_flush_lsn()::text")
        async with asyncio.timeout(within_s):
            while not await self.standby.sql("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position):
                await asyncio.sleep(0.01)

    async def synchronous(self) -> None:
        """Have commits wait for the standby, from now on."""
        await self.primary.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{_STANDBY}'")
        await self.primary.sql("SELECT pg_reload_conf()")
        async with asyncio.timeout(20):
            while await self.primary.sql("SELECT max(sync_state) FROM pg_stat_replication") != "sync":
                await asyncio.sleep(0.01)

    async def promote(self) -> None:
        """Make the standby the primary, and return when it is; the address still leads to the old one."""
        self.stream.cut()
        assert await self.standby.sql("SELECT pg_promote(true, 20)")
        self.primary, self.standby = self.standby, self.primary

    def switch(self) -> None:
        """Lead the address to the primary: new connections only, those of before stay where they are."""
        self.address.lead_to("127.0.0.1", self.primary.server.port)


@asynccontextmanager
async def running_pair(folder: Path) -> AsyncIterator[Pair]:
    """A primary and, after `Pair.attach_standby`, its standby; both end with the block."""
    async with TcpProxy("127.0.0.1", 1) as address, TcpProxy("127.0.0.1", 1) as stream:
        pair = Pair(folder, address, stream)
        try:
            await pair.start()
            yield pair
        finally:
            for node in (pair.standby, pair.primary):
                if node.server.pid is not None:
                    await node.kill()
