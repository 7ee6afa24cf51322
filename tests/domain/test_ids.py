"""Ids and shards: one canonical form, one slice, in Python and in SQL, unchanged by any release."""

import json
from pathlib import Path
from typing import TypedDict
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from shard_worker.domain.ids import SLICES, ThreadId, canonical, shard_of, slice_of, ulid_bytes, ulid_text, ulid_uuid

GOOD = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
COUNTS = (1, 7, 144, 4096)

ulids = st.binary(min_size=16, max_size=16).map(ulid_text)


class Golden(TypedDict):
    """One line of the golden file."""

    id: str
    slice: int
    shards: dict[str, int]


GOLDEN: list[Golden] = json.loads(Path(__file__).with_name("golden_shards.json").read_text())


@pytest.mark.parametrize("text", [GOOD, GOOD.lower(), "01arz3NDEKTSV4RRFFQ69G5fav"], ids=["upper", "lower", "mixed"])
def test_an_id_is_read_in_either_case(text: str) -> None:
    """And is upper case from then on."""
    assert canonical(text) == GOOD


@pytest.mark.parametrize("text", ["0" * 26, "7" + "Z" * 25], ids=["least", "greatest"])
def test_every_128_bit_number_is_an_id(text: str) -> None:
    """From zero to all ones."""
    assert canonical(text) == text
    assert ulid_bytes(text) in (b"\0" * 16, b"\xff" * 16)


@pytest.mark.parametrize("letter", [*"ILOUilou", "-", "_", " ", "+", "\0", "\u0131", "\u212a", "\u017f"])
@pytest.mark.parametrize("place", [0, 1, 25], ids=["first", "second", "last"])
def test_no_other_letter_is_read_as_one_of_the_alphabet(letter: str, place: int) -> None:
    """Neither those that Crockford leaves out, nor those whose upper case is in it."""
    text = GOOD[:place] + letter + GOOD[place + 1 :]
    assert canonical(text) is None
    with pytest.raises(ValueError, match="invalid literal"):
        ulid_bytes(text)


@pytest.mark.parametrize("first", list("89ABCDEFGHJKMNPQRSTVWXYZabz"))
def test_a_first_character_above_7_is_no_id(first: str) -> None:
    """It would be more than 128 bits."""
    assert canonical(first + GOOD[1:]) is None


@pytest.mark.parametrize(
    "text",
    ["", GOOD[:-1], GOOD + "0", GOOD + "\n", "\n" + GOOD, " " + GOOD, GOOD[:13] + "\n" + GOOD[13:]],
    ids=["empty", "short", "long", "newline-after", "newline-before", "space", "newline-within"],
)
def test_an_id_has_26_characters_and_nothing_around_them(text: str) -> None:
    """Nothing is trimmed."""
    assert canonical(text) is None


@pytest.mark.parametrize(
    "digit",
    ["\u0663", "\uff13", "\u0969", "\u00b3", "\U0001d7db"],
    ids=["arabic", "wide", "devanagari", "raised", "double"],
)
def test_digits_of_other_scripts_are_none(digit: str) -> None:
    """Though Python would read them as numbers."""
    assert canonical(GOOD[:5] + digit + GOOD[6:]) is None


@given(st.binary(min_size=16, max_size=16))
def test_bytes_and_text_are_each_others_inverse(raw: bytes) -> None:
    """As another implementation has it."""
    text = ulid_text(raw)
    assert canonical(text) == text
    assert ulid_bytes(text) == raw
    assert str(ULID(raw)) == text
    assert ulid_uuid(text) == UUID(bytes=raw)


@given(st.text(ALPHABET, min_size=25, max_size=25), st.sampled_from("01234567"))
def test_text_and_bytes_are_each_others_inverse(rest: str, first: str) -> None:
    """Every canonical text is the only one of its bytes."""
    assert ulid_text(ulid_bytes(first + rest)) == first + rest


@given(ulids, ulids)
def test_ids_sort_as_their_bytes_do(one: str, other: str) -> None:
    """So that Postgres and Python agree on an order."""
    assert (one < other) == (ulid_bytes(one) < ulid_bytes(other))


@given(ulids.map(ThreadId), st.integers(1, 4096))
def test_a_shard_is_a_range_of_slices(thread_id: ThreadId, shards: int) -> None:
    """Within bounds, and never split by a neighbour: a higher slice is in no lower shard."""
    slice_number, shard = slice_of(thread_id), shard_of(thread_id, shards)
    assert 0 <= slice_number < SLICES
    assert 0 <= shard < shards
    assert -(-shard * SLICES // shards) <= slice_number < -(-(shard + 1) * SLICES // shards)


@pytest.mark.parametrize("shards", [1, 2, 7, 144, 4095, 4096])
def test_every_shard_has_slices_and_about_as_many_as_any(shards: int) -> None:
    """None is empty, none is twice another but for the odd one."""
    sizes = [0] * shards
    for slice_number in range(SLICES):
        sizes[slice_number * shards // SLICES] += 1
    assert max(sizes) - min(sizes) <= 1


def test_the_golden_file_is_worth_something() -> None:
    """Enough ids, the edges among them, in all regions of the slices."""
    assert len({line["id"] for line in GOLDEN}) == len(GOLDEN) >= 200
    assert {"0" * 26, "7" + "Z" * 25} <= {line["id"] for line in GOLDEN}
    assert len({line["slice"] >> 10 for line in GOLDEN}) == SLICES >> 10
    assert all(set(line["shards"]) == {str(count) for count in COUNTS} for line in GOLDEN)


def test_slices_and_shards_are_those_of_the_golden_file() -> None:
    """A thread's shard never changes: its journal would be somewhere else."""
    for line in GOLDEN:
        thread_id = ThreadId(line["id"])
        assert slice_of(thread_id) == line["slice"]
        assert {str(count): shard_of(thread_id, count) for count in COUNTS} == line["shards"]


async def test_postgres_finds_the_same_shards(dsn: str) -> None:
    """The function that people and checks use in SQL, over the golden file."""
    connection = await asyncpg.connect(dsn)
    try:
        for count in COUNTS:
            rows = await connection.fetch(
                "SELECT shard_of(id, $2) AS shard FROM unnest($1::uuid[]) WITH ORDINALITY AS g (id, n) ORDER BY n",
                [ulid_uuid(line["id"]) for line in GOLDEN],
                count,
            )
            assert [row["shard"] for row in rows] == [line["shards"][str(count)] for line in GOLDEN]
    finally:
        await connection.close()
