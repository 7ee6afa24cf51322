"""Minting: new ids of threads, messages and commands.

A ULID is 48 bits of milliseconds and 80 random bits.  The order of two ids minted in one millisecond is left to
chance: nothing here relies on it.  `python-ulid` spends 4.8 µs on one, twice what the rest of a message costs, so ids
are put together here, ten bits at a time, from random bytes that are drawn from the system in blocks.
"""

import os
from struct import Struct
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_BLOCK: Final = 4_096
_EIGHT_NUMBERS: Final = Struct("8H").unpack


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


class IdGenerator:
    """Makes ids."""

    def __init__(self) -> None:
        self._random = RandomBytes()
        self._at_ms = -1
        self._time_part = ""

    def ulid(self, at_ms: int) -> str:
        """A new ULID of this millisecond (48 bits)."""
        if at_ms != self._at_ms:
            self._at_ms = at_ms
            self._time_part = _time_part(at_ms)
        pairs = _PAIRS
        # Two characters from each of eight random 16-bit numbers: ten bits are used, six are thrown away.
        a, b, c, d, e, f, g, h = _EIGHT_NUMBERS(self._random.take(16))
        return (
            f"{self._time_part}{pairs[a & 1023]}{pairs[b & 1023]}{pairs[c & 1023]}{pairs[d & 1023]}"
            f"{pairs[e & 1023]}{pairs[f & 1023]}{pairs[g & 1023]}{pairs[h & 1023]}"
        )

    def command_id(self) -> bytes:
        """The 16 random bytes by which a command is known inside the cluster."""
        return self._random.take(16)


def _time_part(at_ms: int) -> str:
    return "".join([_PAIRS[at_ms >> shift & 1023] for shift in (40, 30, 20, 10, 0)])
