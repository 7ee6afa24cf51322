"""Running a migration's statements on a cluster that serves meanwhile.

A statement that changes a table waits for every transaction that reads it, and later transactions wait behind the
statement: a backup that runs for an hour would stop the cluster for an hour.  So each statement waits a tenth of a
second only, then lets the other transactions pass and is tried again.  Building an index concurrently waits too, but no
transaction waits behind it.

Each statement is recorded when it is done, in its own transaction, so that a run that was ended goes on where it was.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from shard_worker.database.migration_files import Migration, Statement
from shard_worker.tasks import cancel_and_wait

_LOCK_TIMEOUT_MS: Final = 100
"""How long a statement, and with it everything behind it, waits for its lock: less than a beat and a lease can bear."""
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 1.5
"""The longest time between two tries, so that little is lost when what was waited for ends."""
_ASK_AFTER_S: Final = 0.05
"""When to ask who is waited for: before the lock's time-out ends."""
_SAY_EVERY_S: Final = 2.0

STEP_TABLE_SQL: Final = """
CREATE TABLE IF NOT EXISTS schema_step (
    version integer, step integer, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, step)
)
"""
_DONE_SQL: Final = "SELECT step, checksum FROM schema_step WHERE version = $1"
_RECORD_SQL: Final = "INSERT INTO schema_step (version, step, checksum) VALUES ($1, $2, $3)"
_VALID_SQL: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
_BLOCKERS_SQL: Final = """
SELECT string_agg(format('%s (%s, for %s s)', pid, coalesce(nullif(application_name, ''), 'unnamed'),
                         extract(epoch FROM clock_timestamp() - xact_start)::int), ', ')
  FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))
"""


class StepRunner:
    """Runs statements on ``connection``; ``watcher``, a second session, asks whom they wait for.

    Both sessions have no lock, statement or idle time-outs.  Progress goes to ``say``, one sentence a call.
    """

    def __init__(self, connection: asyncpg.Connection, watcher: asyncpg.Connection, say: Callable[[str], None]) -> None:
        self._connection = connection
        self._watcher = watcher
        self._say = say
        self._reported_at = 0.0

    async def unfinished(self, migration: Migration) -> set[int]:
        """The steps of a migration that are still to be done.  Raises `ValueError` when it began in another wording."""
        done = {row["step"]: row["checksum"] for row in await self._connection.fetch(_DONE_SQL, migration.version)}
        if any(checksum != migration.checksum for checksum in done.values()):
            raise ValueError(f"migration {migration.version} ({migration.name}) began in another wording")
        return set(range(len(migration.statements))) - set(done)

    async def run(self, migration: Migration, step: int) -> None:
        """Run one step however long its locks take.  Raises what asyncpg raises for anything else."""
        statement = migration.statements[step]
        about = f"schema {migration.version}, step {step + 1} of {len(migration.statements)} ({statement})"
        act = self._outside_transaction if statement.outside_transaction else self._in_transaction
        began, pause_s, tries = time.monotonic(), _FIRST_PAUSE_S, 0
        while True:
            waited_for: list[str] = []
            tries += 1
            try:
                running = asyncio.create_task(act(migration, step, statement), name=f"migration-step-{step}")
                await self._watched(running, about, waited_for)
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                self._progress(
                    f"{about}: the lock is held by {waited_for[-1] if waited_for else 'another session'}; tried"
                    f" {tries} times in {time.monotonic() - began:.0f} s, requests pass meanwhile"
                )
            await asyncio.sleep(pause_s * (0.75 + random.random() / 4))  # noqa: S311  # jitter
            pause_s = min(_LAST_PAUSE_S, pause_s * 1.5)

    async def _in_transaction(self, migration: Migration, step: int, statement: Statement) -> None:
        async with self._connection.transaction():
            await self._connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            await self._connection.execute(statement.sql)
            await self._connection.execute(_RECORD_SQL, migration.version, step, migration.checksum)

    async def _outside_transaction(self, migration: Migration, step: int, statement: Statement) -> None:
        """Build an index concurrently; an invalid index of an earlier, unfinished build is dropped first."""
        valid = None if statement.index is None else await self._connection.fetchval(_VALID_SQL, statement.index)
        if valid is False:
            self._say(f"schema {migration.version}: index {statement.index} was left half built; building it again")
            await self._connection.execute(f"DROP INDEX CONCURRENTLY {statement.index}")
        if valid is not True:
            await self._connection.execute(statement.sql)
        await self._connection.execute(_RECORD_SQL, migration.version, step, migration.checksum)

    async def _watched(self, running: "asyncio.Task[None]", about: str, waited_for: list[str]) -> None:
        """The end of a statement; meanwhile it is asked whom it waits for."""
        began, pid = time.monotonic(), self._connection.get_server_pid()
        try:
            while not (await asyncio.wait((running,), timeout=_ASK_AFTER_S if not waited_for else _SAY_EVERY_S))[0]:
                waited_for.append(await self._watcher.fetchval(_BLOCKERS_SQL, pid) or "no session")
                if time.monotonic() - began > _SAY_EVERY_S:
                    self._progress(f"{about}: at work for {time.monotonic() - began:.0f} s; waits for {waited_for[-1]}")
        except BaseException:
            await cancel_and_wait(running)
            raise
        running.result()

    def _progress(self, sentence: str) -> None:
        """Say how it goes, every two seconds at most."""
        if time.monotonic() - self._reported_at >= _SAY_EVERY_S:
            self._reported_at = time.monotonic()
            self._say(sentence)
