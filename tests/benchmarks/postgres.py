"""The benchmark's own Postgres: the embedded one, as `threadcluster local up` starts it, on a throw-away directory.

The directory lies beside the report and not in the system's temporary folder, which is often memory: an fsync that
costs nothing would make every figure a lie.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from threadcluster_operator.local.postgres import EmbeddedPostgres


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
