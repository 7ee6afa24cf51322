"""Identifiers: what an account, a thread and a message are called, and which shard a thread belongs to.

An id is a ULID in canonical form: 26 upper-case Crockford characters, the first at most ``7``.  Inside the project an
id is always canonical; `canonical` is the only way to make one from a request.  Ids are strings because they enter and
leave as JSON strings, and are turned into their 16 bytes only where the journal wants a ``uuid``.
"""

import re
from hashlib import sha256
from typing import Final, NewType
from uuid import UUID

AccountId = NewType("AccountId", str)
ThreadId = NewType("ThreadId", str)
MessageId = NewType("MessageId", str)
ShardId = NewType("ShardId", int)

SLICES: Final = 16_384
"""How many slices there are: the first 14 bits of a hash."""

_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE32: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
TO_BASE32: Final = bytes(
    ord(_BASE32[_CROCKFORD.index(chr(byte))]) if chr(byte) in _CROCKFORD else ord("!") for byte in range(256)
)
"""For `bytes.translate`: from the digits of a canonical ULID to those of Python's base 32; others become one that `int` refuses."""


def canonical(text: str) -> str | None:
    """The canonical form of a ULID written in either case, or None when ``text`` is not one."""
    upper = text.upper() if text.isascii() else ""
    return upper if _ULID.fullmatch(upper) else None


def ulid_bytes(ulid: str) -> bytes:
    """The 16 bytes of a canonical ULID, most significant first.  Raises `ValueError` or `OverflowError` for another text."""
    return int(ulid.encode().translate(TO_BASE32), 32).to_bytes(16, "big")


def ulid_uuid(ulid: str) -> UUID:
    """A canonical ULID as the ``uuid`` that the journal stores."""
    return UUID(bytes=ulid_bytes(ulid))


def ulid_text(raw: bytes) -> str:
    """The canonical ULID of 16 bytes; the inverse of `ulid_bytes`."""
    number = int.from_bytes(raw, "big")
    return "".join([_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5)])


def slice_of(thread_id: ThreadId) -> int:
    """The slice of a thread: the first 14 bits of SHA-256 of the id's 16 bytes."""
    digest = sha256(ulid_bytes(thread_id)).digest()
    return (digest[0] << 6) | (digest[1] >> 2)


def shard_of(thread_id: ThreadId, shards: int) -> ShardId:
    """The shard of a thread in a cluster of ``shards`` shards: a range of slices, so that a hot one can be split."""
    return ShardId(slice_of(thread_id) * shards // SLICES)
