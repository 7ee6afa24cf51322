"""Minting: new ids of threads, messages and commands.

A ULID is 48 bits of milliseconds and 80 random bits.  The order of two ids minted in one millisecond is left to
chance: nothing here relies on it.  `python-ulid` spends 4.8 µs on one, twice what the rest of a message costs, so ids
are put together here, ten bits at a time, from random bytes that are drawn from the system in blocks.
"""

import os
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_BLOCK: Final = 4_096


class RandomBytes:
    """Cryptographic random bytes from blocks; no byte is handed out twice.  Not to be used across a fork."""

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """``count`` fresh bytes, at most a block."""
        start = self._used
        end = start + count
        if end > len(self._block):
            self._block = os.urandom(_BLOCK)
            start, end = 0, count
        self._used = end
        return self._block[start:end]


def ulid_of(at_ms: int, random_part: bytes) -> str:
    """The canonical ULID of an instant (milliseconds, 48 bits) and ten random bytes."""
    pairs = _PAIRS
    number = int.from_bytes(random_part, "big")
    return (
        pairs[at_ms >> 40]
        + pairs[at_ms >> 30 & 1023]
        + pairs[at_ms >> 20 & 1023]
        + pairs[at_ms >> 10 & 1023]
        + pairs[at_ms & 1023]
        + pairs[number >> 70]
        + pairs[number >> 60 & 1023]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


class Mint:
    """Makes ids."""

    def __init__(self) -> None:
        self._random = RandomBytes()

    def ulid(self, at_ms: int) -> str:
        """A new ULID of this millisecond."""
        return ulid_of(at_ms, self._random.take(10))

    def command_id(self) -> bytes:
        """The 16 random bytes by which a command is known inside the cluster."""
        return self._random.take(16)
