"""Cursors: where the next page begins, opaque to the client.

A cursor holds for the query, the thread and the account that gave it.  It is MessagePack, with a keyed digest over it
and over those three, in base64url: a cursor from elsewhere, or a tampered one, is refused and never guessed at.  The
digest protects the client from mistakes; a cursor grants nothing, since every page is checked for the right to read.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BinasciiError
from hashlib import blake2b
from typing import Final

import msgspec

from shard_worker.domain.ids import AccountId

Position = tuple[int | str, ...]
"""Of the page's last item: an account's (id), a message's (sequence number, index), a thread's (activity, id), or a mention's
(creation, thread id, sequence number, index).  Of a page of messages that goes on backwards: "before", then its first message's.
In a list of one thread the thread's sequence number at the first page follows, in a list over threads the primary's WAL position."""

_DIGEST_BYTES: Final = 8
_LONGEST: Final = 200
_DECODER: Final = msgspec.msgpack.Decoder(Position)


class Cursors:
    """Writes and reads cursors; workers of one cluster share the key.  ``thread_id`` is empty for a list over threads."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key[:64]

    def _digest(self, operation: str, thread_id: str, account_id: AccountId, payload: bytes) -> bytes:
        text = f"{operation}:{thread_id}:{account_id}:".encode()
        return blake2b(text + payload, key=self._key, digest_size=_DIGEST_BYTES).digest()

    def write(self, operation: str, thread_id: str, account_id: AccountId, position: Position) -> str:
        """The cursor of the page after ``position``."""
        payload = msgspec.msgpack.encode(position)
        digest = self._digest(operation, thread_id, account_id, payload)
        return urlsafe_b64encode(digest + payload).rstrip(b"=").decode()

    def read(self, operation: str, thread_id: str, account_id: AccountId, cursor: str) -> Position | None:
        """The position of a cursor, or None when it does not hold here."""
        if not cursor.isascii() or len(cursor) > _LONGEST:
            return None
        try:
            raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (BinasciiError, ValueError):
            return None
        if urlsafe_b64encode(raw).rstrip(b"=") != cursor.encode():
            return None  # the decoder overlooks foreign characters and spare bits
        digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != self._digest(operation, thread_id, account_id, payload):
            return None
        try:
            position: Position = _DECODER.decode(payload)
            return position
        except msgspec.DecodeError:
            return None
