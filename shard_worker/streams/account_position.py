"""Positions in an account's stream: a mark of the journal, for one account.

A client that has a position has every event that transactions below its id wrote to threads that the account could read.  The
position also holds the history of the database that the id belongs to, and when it was made, by the worker's clock: an old one is
not continued, so a wrong clock costs a reset and loses nothing.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from hashlib import blake2b
from typing import Final, NamedTuple

from shard_worker.domain.ids import AccountId, ulid_bytes, ulid_text

_FORM: Final = struct.Struct(">BQI16s")
_VERSION: Final = 1
_TAG_BYTES: Final = 8
_LENGTH: Final = ((_FORM.size + _TAG_BYTES) * 8 + 5) // 6
"""Of the text: six bits a character, and no padding."""
_NO_GENERATION: Final = bytes(16)


class AccountPosition(NamedTuple):
    """A position as clients get it, without its account."""

    generation: str
    xid: int
    made_at: int
    """Epoch seconds."""


class PositionCodec:
    """Writes positions, and reads those of the same account; ``key`` is the same on every worker of a cluster."""

    def __init__(self, key: bytes) -> None:
        self._key = key[:64]

    def tag(self, account_id: AccountId) -> bytes:
        """The bytes by which positions of an account are known."""
        return blake2b(account_id.encode(), key=self._key, digest_size=_TAG_BYTES).digest()

    def write(self, tag: bytes, position: AccountPosition) -> bytes:
        """A position as text; ``tag`` is the account's."""
        generation = ulid_bytes(position.generation) if position.generation else _NO_GENERATION
        return urlsafe_b64encode(_FORM.pack(_VERSION, position.xid, position.made_at, generation) + tag).rstrip(b"=")

    def read(self, account_id: AccountId, text: str) -> AccountPosition | None:
        """The position; None for anything else, also for one of another account."""
        if len(text) != _LENGTH:
            return None
        try:
            raw = urlsafe_b64decode(f"{text}==")
        except (Error, ValueError):  # a ValueError where the text is not ASCII
            return None
        if raw[_FORM.size :] != self.tag(account_id):  # also where characters were left out, and fewer bytes are there
            return None
        version, xid, made_at, generation = _FORM.unpack_from(raw)
        position = AccountPosition("" if generation == _NO_GENERATION else ulid_text(generation), xid, made_at)
        # Exactly as it was written: other text with the same bytes was given by no stream.
        if version != _VERSION or self.write(raw[_FORM.size :], position) != text.encode():
            return None
        return position
