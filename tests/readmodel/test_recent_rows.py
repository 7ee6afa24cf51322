"""Rows that were just appended: dense, those that were added and no others, within their bound."""

import random
from typing import cast
from uuid import UUID

import pytest

from shard_worker.journal.append_queue import Row, Writer
from shard_worker.readmodel.recent_rows import RecentRows


class _Thread:
    uuid = UUID(int=7)


def row(number: int, size: int = 10) -> Row:
    """The row of one event, whose number in its thread is its number in its shard."""
    made = Row()
    made.writer = cast("Writer", _Thread())
    made.seq_nr, made.event_type, made.event_version, made.payload = number, 7, 1, b"." * size
    made.size = size
    return made


def numbers(
    recent: RecentRows, shard: int, position: int, most: int = 1_000, most_bytes: int = 1 << 20
) -> list[int] | None:
    """The numbers of what is behind a position."""
    found = recent.after(shard, position, most, most_bytes)
    return None if found is None else [each.shard_seq for each in found.journal_rows()]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_behind_a_position_is_dense_or_not_here(seed: int) -> None:
    """Whatever was added, missed and dropped in between: a projection gets the rows of a read, or none."""
    rng = random.Random(seed)
    recent = RecentRows()
    head, first = 0, 1
    for _ in range(300):
        action = rng.random()
        if action < 0.5:
            count = rng.randint(1, 4)
            head += count
            recent.add(1, head, [row(head - count + 1 + at, rng.randrange(50)) for at in range(count)], 3, 99)
        elif action < 0.6:  # stored by an append of which the worker did not hear
            head += rng.randint(1, 3) + 1
            first = head
            recent.add(1, head, [row(head)], 3, 99)  # the next one tells
        elif action < 0.8:
            projected = rng.randint(0, head)
            recent.drop(1, projected)
            first = max(first, projected + 1)
        for position in range(head + 2):
            found = numbers(recent, 1, position)
            assert found in (None, list(range(position + 1, head + 1)))
            assert (found is not None) == (first <= position + 1 <= head)
    recent.drop(1, head)
    assert recent.bytes == 0


def test_a_row_is_as_the_journal_has_it() -> None:
    """With its number, epoch and transaction."""
    recent = RecentRows()
    recent.add(1, 5, [row(4), row(5)], 3, 99)
    found = recent.after(1, 4, 10, 1)
    assert found is not None
    assert found.journal_rows() == [(5, UUID(int=7), 5, 7, 1, b"." * 10, 3, 99)]


def test_a_look_is_bounded_in_rows_and_bytes() -> None:
    """The first is given whatever its size."""
    recent = RecentRows()
    recent.add(1, 4, [row(number, 100) for number in range(1, 5)], 1, 1)
    assert numbers(recent, 1, 0, most=2) == [1, 2]
    assert numbers(recent, 1, 0, most_bytes=101) == [1, 2]
    assert numbers(recent, 1, 1, most_bytes=1) == [2]


def test_a_shard_that_takes_too_much_is_read_from_the_journal() -> None:
    """The others keep their rows."""
    recent = RecentRows(most_bytes=5_000)
    recent.add(1, 1, [row(1)], 1, 1)
    recent.add(2, 1, [row(1, 6_000)], 1, 1)
    assert numbers(recent, 2, 0) is None
    assert numbers(recent, 1, 0) == [1]
    recent.forget(1)
    assert recent.bytes == 0


def test_nothing_is_left_after_a_clear() -> None:
    """And rows are taken again."""
    recent = RecentRows()
    recent.add(1, 1, [row(1)], 1, 1)
    recent.clear()
    assert numbers(recent, 1, 0) is None
    recent.add(1, 3, [row(3)], 1, 1)
    assert numbers(recent, 1, 2) == [3]
