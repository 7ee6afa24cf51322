"""The benchmark's own Postgres: the embedded one, as `threadcluster local up` starts it, on a throw-away directory.

The directory lies beside the report and not in the system's temporary folder, which is often memory: an fsync that
costs nothing would make every figure a lie.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
from threadcluster_operator.local.postgres import EmbeddedPostgres

_SETTINGS: Final = {"shared_buffers": "4GB", "min_wal_size": "2GB", "max_wal_size": "12GB"}
_LOG_FILES: Final = 130
"""Files of 16 MB of the write-ahead log: two gigabytes."""


@asynccontextmanager
async def seasoned_postgres(folder: Path) -> AsyncIterator[str]:
    """A server as it is after it has run for a while under such a load, until the end of the block; gives a superuser's URL.

    It keeps all tables of a run in its memory and not in the kernel's, makes no checkpoint by itself within a run, and has the files
    of its log for it: a new one takes 15 to 100 ms, for which every append waits, and a server makes it only while it is young.
    """
    server = EmbeddedPostgres(folder / "postgres")
    await server.start()
    try:
        await _execute(server, [f"ALTER SYSTEM SET {name} = '{value}'" for name, value in _SETTINGS.items()])
        await server.stop()
        await server.start()
        fill = ["SELECT pg_logical_emit_message(true, 'bench', '')", "SELECT pg_switch_wal()"]
        await _execute(server, [*fill * _LOG_FILES, "CHECKPOINT"])
        yield server.dsn_of("postgres")
    finally:
        await server.stop()


async def _execute(server: EmbeddedPostgres, statements: list[str]) -> None:
    connection = await asyncpg.connect(server.dsn_of("postgres"))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def own_postgres(out: Path) -> AsyncIterator[str]:
    """A fresh server until the end of the block; gives a superuser's URL.  Its log is kept in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=out))
    server = EmbeddedPostgres(folder)
    try:
        await server.start()
        yield server.dsn_of("postgres")
    finally:
        await server.stop()
        if server.log_path.exists():
            shutil.copyfile(server.log_path, out / "postgres.log")
        shutil.rmtree(folder, ignore_errors=True)
