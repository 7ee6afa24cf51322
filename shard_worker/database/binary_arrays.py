"""Array parameters in Postgres's binary form, ready-made.

asyncpg encodes an array element by element, and asks of each whether it can be iterated over: up to 9 µs a row of an append,
which has ten arrays.  Joined from pieces, as here, they take about 1 µs.  A connection of `use_binary_arrays` sends such
``bytes`` as they are; it encodes a list by the same functions, so that every other statement works as before.

asyncpg has no public way to register a codec for an array type.  `use_binary_arrays` checks that the private one works; where it
does not, the caller opens another connection and sends lists.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812  # the name that it lacks
from typing import Any, Final
from uuid import UUID

import asyncpg

from shard_worker.domain.ids import TO_BASE32

log = logging.getLogger(__name__)

UNENCODABLE: Final = (StructError, TypeError, ValueError, AttributeError, OverflowError)
"""Raised by the encoders for values that the array's type does not have."""

_INT2, _INT4, _INT8, _UUID, _BYTEA, _TEXT = 21, 23, 20, 2950, 17, 25
"""Object ids of the element types, fixed in Postgres's sources."""

_HEADER: Final = Struct(">5i").pack
_HEADER_BYTES: Final = 20
_EMPTY: Final = Struct(">3i").pack
_NULL: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = Struct(">i").pack
_CHUNK: Final = 64
"""Numbers that are packed by one call: bounds the formats that are kept."""


def array_of(element: int, elements: Sequence[bytes], *, nulls: bool = False) -> bytes:
    """An array of one dimension; each of ``elements`` begins with its length, as in `int4_element`."""
    return b"".join([header(element, len(elements), nulls=nulls), *elements])


def header(element: int, count: int, *, nulls: bool = False) -> bytes:
    """The beginning of an array of ``count`` elements."""
    return _HEADER(1, nulls, element, count, 1) if count else _EMPTY(0, 0, element)


class _Numbers:
    """Encodes arrays of numbers of one width: each element is its width and the number."""

    def __init__(self, element: int, width: int, code: str) -> None:
        self._element = element
        self._width = width
        self._code = code
        self._packers: dict[int, Callable[..., bytes]] = {}

    def __call__(self, values: Sequence[int]) -> bytes:
        count = len(values)
        if count <= _CHUNK:
            return header(self._element, count) + self._packed(values)
        chunks = [self._packed(values[at : at + _CHUNK]) for at in range(0, count, _CHUNK)]
        return b"".join([header(self._element, count), *chunks])

    def _packed(self, values: Sequence[int]) -> bytes:
        count = len(values)
        pack = self._packers.get(count)
        if pack is None:
            pack = self._packers[count] = Struct(">" + f"i{self._code}" * count).pack
        pairs = [self._width] * (2 * count)
        pairs[1::2] = values
        return pack(*pairs)


int2s: Final = _Numbers(_INT2, 2, "h")
int4s: Final = _Numbers(_INT4, 4, "i")
int8s: Final = _Numbers(_INT8, 8, "q")
"""``smallint[]``, ``integer[]`` and ``bigint[]``; a value out of range is one of `UNENCODABLE`."""

int4_element: Final = partial(Struct(">ii").pack, 4)
"""One element of an ``integer[]`` with its length."""
INT4: Final = _INT4


def same_int2s(value: int, count: int) -> bytes:
    """A ``smallint[]`` of ``count`` equal elements."""
    return header(_INT2, count) + _SAME_INT2(2, value) * count


_SAME_INT2: Final = Struct(">ih").pack
_UUID_LENGTH: Final = b"\x00\x00\x00\x10"


def uuids(values: Sequence[UUID]) -> bytes:
    """A ``uuid[]``."""
    return raw_uuids([value.bytes for value in values])


def raw_uuids(values: Sequence[bytes]) -> bytes:
    """A ``uuid[]`` of the 16 bytes of each."""
    return header(_UUID, len(values)) + _UUID_LENGTH.join([b"", *values])


def ulids(values: Sequence[str]) -> bytes:
    """A ``uuid[]`` of canonical ULIDs, converted as one number.  Raises `ValueError` for other texts.

    32 digits of base 32 are the 20 bytes of an element: six give 30 bits of its length, and two more lead a ULID's 128.
    """
    if set(map(len, values)) - {_ULID_DIGITS}:
        raise ValueError(f"a ULID has {_ULID_DIGITS} digits")
    count = len(values)
    if not count:
        return header(_UUID, 0)
    digits = _LENGTH_DIGITS.join(["", *values]).encode().translate(TO_BASE32)
    elements = int(digits, 32).to_bytes(20 * count, "big")
    if elements[3::20] != _UUID_LENGTH[3:] * count:  # a first digit over 7 would be seen in the length
        raise ValueError("a ULID has 128 bits")
    return header(_UUID, count) + elements


_ULID_DIGITS: Final = 26
_LENGTH_DIGITS: Final = "000004"


def byteas(values: Sequence[bytes | None]) -> bytes:
    """A ``bytea[]``."""
    return _strings(_BYTEA, values)


def texts(values: Sequence[str | None]) -> bytes:
    """A ``text[]``."""
    return raw_texts([None if value is None else value.encode() for value in values])


def raw_texts(values: Sequence[bytes | None]) -> bytes:
    """A ``text[]`` of texts in UTF-8."""
    return _strings(_TEXT, values)


def _strings(element: int, values: Sequence[bytes | None]) -> bytes:
    if None in values:
        return array_of(
            element, [_NULL if value is None else _LENGTH(len(value)) + value for value in values], nulls=True
        )
    present: Sequence[bytes] = values  # type: ignore[assignment]  # looked at just now
    parts = [b""] * (2 * len(present))
    parts[::2] = map(_LENGTH, map(len, present))
    parts[1::2] = present
    return b"".join([header(element, len(present)), *parts])


class _Codec:
    """Encoder of a parameter: gives ready-made bytes as they are, and a list encoded."""

    def __init__(self, element: int, encode: Callable[[Sequence[Any]], bytes]) -> None:
        self._element = element
        self._encode = encode

    def __call__(self, value: Any) -> bytes:  # Any: asyncpg's, of whatever it was given
        if type(value) is bytes:
            return value
        try:
            return self._encode(value)
        except UNENCODABLE:
            if None not in value:
                raise
        # Seldom: a column that is NULL in some of its rows.
        elements = [_NULL if each is None else self._encode([each])[_HEADER_BYTES:] for each in value]
        return array_of(self._element, elements, nulls=True)


_ARRAYS: Final = {
    "_int2": (1005, _INT2, int2s),
    "_int4": (1007, _INT4, int4s),
    "_int8": (1016, _INT8, int8s),
    "_uuid": (2951, _UUID, uuids),
    "_bytea": (1001, _BYTEA, byteas),
    "_text": (1009, _TEXT, texts),
}
"""Array types by name: their object id, their element's, and their encoder."""
_CHECK_SQL: Final = r"""
SELECT $1::smallint[] = '{1,-2}' AND $2::integer[] = '{3,-4}' AND $3::bigint[] = '{5,-6}'
   AND $4::uuid[] = '{00112233-4455-6677-8899-aabbccddeeff}'
   AND $5::bytea[] = ARRAY['\x00ff'::bytea, NULL, '\x'] AND $6::text[] = ARRAY['ä', NULL, ''] AND $7::bytea[] = '{}'
"""


async def use_binary_arrays(connection: asyncpg.Connection) -> bool:
    """Have a connection take ready-made arrays; False when it does not, and then it is of no more use.

    Its results may have no arrays, which would stay undecoded.  Raises what a broken connection raises.
    """
    try:
        settings = connection._protocol.get_settings()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg has no public way
        for name, (oid, element, encode) in _ARRAYS.items():
            codec = _Codec(element, encode)  # type: ignore[arg-type]  # mypy joins the encoders of the table to `object`
            settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", codec, bytes, "binary")
        some = UUID("00112233-4455-6677-8899-aabbccddeeff")
        ready = (int2s([1, -2]), int4s([3, -4]), int8s([5, -6]), uuids([some]), byteas([b"\x00\xff", None, b""]))
        return bool(await connection.fetchval(_CHECK_SQL, *ready, texts(["ä", None, ""]), byteas([])))
    except (AttributeError, TypeError, ValueError, asyncpg.InterfaceError, asyncpg.DataError) as error:
        if connection.is_closed():
            raise
        log.debug("client library refused ready-made arrays", extra={"cause": repr(error)})
        return False
