"""Looks idempotency keys up in the journal, when no actor remembers them."""

from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from shard_worker.database.connection import Session
from shard_worker.domain.events import Event
from shard_worker.domain.ids import ShardId
from shard_worker.journal.codec import decode

_KEY_SQL: Final = """
SELECT body_hash, seq_nr, event_type, event_version, payload, metadata, epoch FROM journal
 WHERE shard_id = $1 AND thread_id = $2 AND key_hash = $3
"""


class _Metadata(msgspec.Struct, rename="camel"):
    command_id: str = ""


_EPOCH_SQL: Final = "SELECT epoch FROM journal WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = $3"

_decode_metadata: Final = msgspec.json.Decoder(_Metadata).decode


class StoredKey(NamedTuple):
    """The event stored with a key: it says what the first answer was."""

    body_hash: bytes
    seq_nr: int
    event: Event
    command_id: bytes
    """The command that stored it; empty where its metadata have none."""
    epoch: int


async def look_up_key(connection: Session, shard_id: ShardId, thread_uuid: UUID, key_hash: bytes) -> StoredKey | None:
    """The event that was stored with the key on this thread, or None for a new key."""
    row = await connection.fetchrow(_KEY_SQL, shard_id, thread_uuid, key_hash)
    if row is None:
        return None
    event = decode(row["event_type"], row["event_version"], row["payload"])
    return StoredKey(row["body_hash"], row["seq_nr"], event, _command_id(row["metadata"]), row["epoch"])


async def epoch_of(connection: Session, shard_id: ShardId, thread_uuid: UUID, seq_nr: int) -> int:
    """The epoch under which a thread's event was written; 0 where the journal does not hold it."""
    return await connection.fetchval(_EPOCH_SQL, shard_id, thread_uuid, seq_nr) or 0


def _command_id(metadata: bytes) -> bytes:
    try:
        return bytes.fromhex(_decode_metadata(metadata).command_id)
    except (msgspec.DecodeError, ValueError):  # damage that `fsck` names; the first answer does not depend on it
        return b""
