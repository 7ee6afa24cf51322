"""The embedded Postgres where pods reach it: on an address of the node, still with a password."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
from threadcluster_operator.local.postgres import EmbeddedPostgres


class NodePostgres:
    """One server for all pods; it has a loop of its own, because it outlives the loop of every test."""

    def __init__(self, folder: Path, address: str, clients: str) -> None:
        """``clients`` is the range of addresses that may come."""
        self._server = EmbeddedPostgres(folder)
        self._address = address
        self._clients = clients
        self._loop = asyncio.new_event_loop()

    def dsn_of(self, database: str) -> str:
        """Where a database is, seen from a pod and from the tests alike."""
        return self._server.dsn_of(database).replace("@127.0.0.1:", f"@{self._address}:")

    def start(self) -> None:
        """Start it on the address of the node."""
        self._loop.run_until_complete(self._start())

    async def make_database(self, name: str) -> str:
        """Make an empty database; its DSN."""
        await self._execute(f'CREATE DATABASE "{name}"')
        return self.dsn_of(name)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the server is stopped in its tracks, and goes on where it was."""
        assert self._server.pid is not None
        postmaster = psutil.Process(self._server.pid)
        postmaster.suspend()  # first: it makes no process any more
        processes = postmaster.children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in (*processes, postmaster):
                process.resume()

    def stop(self) -> None:
        """Stop it."""
        self._loop.run_until_complete(self._server.stop())
        self._loop.close()

    async def _start(self) -> None:
        await self._server.start()
        # The setting that is written last counts; its own file is written again at every start.
        await self._execute(f"ALTER SYSTEM SET listen_addresses = '127.0.0.1, {self._address}'")
        with (self._server.data_dir / "cluster" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self._clients} scram-sha-256\nhost all all {self._address}/32 scram-sha-256\n")
        await self._server.stop()
        await self._server.start()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.dsn_of("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
