"""Ready-made arrays: Postgres reads what asyncpg's own encoder would have sent, and no append rests on the client library's insides."""

import random
from uuid import UUID

import asyncpg
import pytest

from shard_worker.database.binary_arrays import (
    INT4,
    UNENCODABLE,
    array_of,
    byteas,
    int2s,
    int4_element,
    int4s,
    int8s,
    same_int2s,
    texts,
    ulids,
    use_binary_arrays,
    uuids,
)
from shard_worker.domain.ids import ulid_text
from shard_worker.journal import append_lane
from shard_worker.journal.append_sql import binary_parameters, parameters
from tests.journal.appender_bench import bench_on, row_of
from tests.support.polling import eventually

_ENCODERS = (int2s, int4s, int8s, uuids, byteas, texts)
_COLUMNS = "SELECT * FROM unnest($1::int2[], $2::int4[], $3::int8[], $4::uuid[], $5::bytea[], $6::text[])"
_COUNTS = (0, 1, 2, 63, 64, 65, 200)
"""Around the number of integers that are packed at once."""

_ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
_NO_ULIDS = (
    "",
    _ULID[:-1],
    _ULID + "0",
    "8" + _ULID[1:],
    _ULID.lower(),
    *(_ULID[:9] + bad + _ULID[10:] for bad in "ILOU_- +\0é٣"),
)

Row = tuple[int, int, int, UUID, bytes | None, str | None]


def _whole(rng: random.Random, bits: int) -> int:
    edge = 1 << (bits - 1)
    return rng.choice((-edge, -1, 0, 1, edge - 1, rng.randrange(-edge, edge)))


def _row(rng: random.Random) -> Row:
    return (
        _whole(rng, 16),
        _whole(rng, 32),
        _whole(rng, 64),
        UUID(int=rng.getrandbits(128)),
        rng.choice((None, b"", rng.randbytes(rng.randrange(40)))),
        rng.choice((None, "", "text", "ä\U0001f600" * rng.randrange(5))),
    )


@pytest.mark.parametrize("count", _COUNTS)
async def test_postgres_reads_the_values_that_were_encoded(count: int, dsn: str) -> None:
    """As bytes that were made before, and as lists on the same connection."""
    rng = random.Random(count)
    rows = [_row(rng) for _ in range(count)]
    columns = [[row[at] for row in rows] for at in range(6)]
    ready = [encode(column) for encode, column in zip(_ENCODERS, columns, strict=True)]  # type: ignore[operator]  # each its own
    connection = await asyncpg.connect(dsn)
    assert await use_binary_arrays(connection)
    assert [tuple(row) for row in await connection.fetch(_COLUMNS, *ready)] == rows
    assert [tuple(row) for row in await connection.fetch(_COLUMNS, *columns)] == rows
    for column in columns:
        column[count // 2 : count // 2 + 1] = [None]
    some = [tuple(row) for row in await connection.fetch(_COLUMNS, *columns)]
    assert some == list(zip(*columns, strict=True)), "lists may have elements without a value"
    await connection.close()


def test_equal_elements_and_single_elements_are_encoded_as_in_a_list() -> None:
    """The short cuts give the same bytes."""
    for count in _COUNTS:
        assert same_int2s(-7, count) == int2s([-7] * count)
        assert array_of(INT4, [int4_element(number) for number in range(count)]) == int4s(range(count))


@pytest.mark.parametrize("count", _COUNTS)
def test_ulids_are_encoded_as_their_uuids(count: int) -> None:
    """Whatever their bits, the outermost included."""
    rng = random.Random(count)
    values = [UUID(int=rng.choice((0, (1 << 128) - 1, rng.getrandbits(128)))) for _ in range(count)]
    assert ulids([ulid_text(value.bytes) for value in values]) == uuids(values)


@pytest.mark.parametrize(
    ("encode", "values"),
    [
        (int2s, [1 << 15]),
        (int8s, [1 << 63]),
        (int8s, [1.5]),
        (int8s, [None]),
        (uuids, [None]),
        (uuids, ["not a uuid"]),
        (byteas, ["text"]),
        (texts, [b"bytes"]),
        (texts, ["\ud800"]),
        *((ulids, [_ULID, text, _ULID]) for text in _NO_ULIDS),
        (ulids, [_ULID[:-1], _ULID + "0"]),
    ],
)
def test_a_value_of_another_type_is_refused(encode: object, values: list[object]) -> None:
    """The caller then sends a list, for which asyncpg reports which parameter cannot be encoded."""
    with pytest.raises(UNENCODABLE):
        encode(values)  # type: ignore[operator]  # one of the encoders


class _NoSettings:
    """As the protocol of a release of asyncpg that has lost the part which takes codecs of array types."""

    def get_settings(self) -> object:
        return object()

    def is_connected(self) -> bool:
        return True


async def _lacking(connection: asyncpg.Connection) -> bool:
    whole, connection._protocol = connection._protocol, _NoSettings()  # type: ignore[attr-defined]
    try:
        return await use_binary_arrays(connection)
    finally:
        connection._protocol = whole  # type: ignore[attr-defined]


async def test_an_append_sends_lists_where_the_client_library_takes_no_ready_made_arrays(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane opens another connection, and stores the same rows."""
    monkeypatch.setattr(append_lane, "use_binary_arrays", _lacking)
    async with bench_on(dsn) as bench:
        scribe = bench.scribe(0)
        rows = [row_of(scribe, number) for number in range(1, 6)]
        for row in rows:
            bench.streams[0].submit(row)
        await eventually(lambda: scribe.stored_rows == rows, what="all rows are stored")
        assert [record["seq_nr"] for record in await bench.journal(0)] == [1, 2, 3, 4, 5]


async def test_a_check_that_fails_is_noticed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs that are taken and encode something else are no use either."""
    monkeypatch.setattr("shard_worker.database.binary_arrays._CHECK_SQL", "SELECT $1::int[] = '{7}'")
    connection = await asyncpg.connect(dsn)
    assert not await use_binary_arrays(connection)
    await connection.close()


async def test_both_forms_of_an_append_have_the_same_values(dsn: str) -> None:
    """With keys and without, of one event type and of two."""
    async with bench_on(dsn) as bench:
        plain = await asyncpg.connect(dsn)
        raw = await asyncpg.connect(dsn)
        assert await use_binary_arrays(raw)
        types = [
            "int[]",
            "bytea",
            "bigint[]",
            "text",
            "int[]",
            "bigint[]",
            "uuid[]",
            "bigint[]",
            "smallint[]",
            "smallint[]",
        ] + ["bytea[]"] * 4
        echo = ", ".join(f"${at}::{kind}::text" for at, kind in enumerate(types, start=1))
        for keyed, mixed in ((False, False), (True, True)):
            batch = []
            for shard in (1, 4):
                scribe = bench.scribe(shard)
                rows = [row_of(scribe, number, b"k" * 16 if keyed and number == 2 else None) for number in (1, 2, 3)]
                rows[0].event_type = 8 if mixed else 7
                batch.append((bench.streams[shard], rows))
            lists, ready = parameters(batch, "incarnation"), binary_parameters(batch, "incarnation")
            assert await plain.fetch(f"SELECT {echo}", *lists) == await raw.fetch(f"SELECT {echo}", *ready)
        await plain.close()
        await raw.close()
