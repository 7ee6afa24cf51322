"""A sound journal, and a way to damage it."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from shard_worker.domain.ids import ThreadId, ulid_uuid
from shard_worker.journal.fsck.report import Check, Finding, Report
from shard_worker.journal.fsck.run import fsck
from tests.support.journal_writer import JournalWriter

SHARD = 3


KEY = b"k" * 16


@dataclass
class Sound:
    """A sound journal: three epochs of shard 3, a thread of every event type, keys, snapshots."""

    dsn: str
    admin: asyncpg.Connection
    pen: JournalWriter
    thread: ThreadId
    """Five events: shard_seq 1, 2 (epoch 1), 11, 12 (epoch 2) and 13 (epoch 4)."""

    @property
    def uuid(self) -> UUID:
        """The thread as the tables hold it."""
        return ulid_uuid(self.thread)

    async def damage(self, sql: str, *parameters: object) -> None:
        """Change what no worker may change, past every constraint that would refuse it."""
        await self.admin.execute(
            "ALTER TABLE journal DROP CONSTRAINT IF EXISTS journal_pkey, DROP CONSTRAINT IF EXISTS journal_check,"
            " DROP CONSTRAINT IF EXISTS journal_key_hash_check, DROP CONSTRAINT IF EXISTS journal_body_hash_check;"
            " DROP INDEX IF EXISTS journal_shard_seq, journal_key;"
            " ALTER TABLE shard_epoch DROP CONSTRAINT IF EXISTS shard_epoch_pkey,"
            " DROP CONSTRAINT IF EXISTS shard_epoch_shard_id_fkey;"
            " ALTER TABLE shard_target DROP CONSTRAINT IF EXISTS shard_target_shard_id_fkey"
        )
        status = await self.admin.execute(sql, *parameters)
        assert not status.endswith(" 0"), f"the damage missed: {sql}"

    async def findings(self) -> list[Finding]:
        return list((await self.report()).findings)

    async def report(self) -> Report:
        return await fsck(self.dsn, progress=lambda _: None)


def the_one(findings: list[Finding], check: Check) -> Finding:
    """The single finding there is, which must be of ``check``."""
    assert [finding.check for finding in findings] == [check], [finding.line() for finding in findings]
    return findings[0]
