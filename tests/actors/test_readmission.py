"""Requests that waited together are let in one after another, and nobody is forgotten."""

import asyncio
from itertools import pairwise

import pytest

from shard_worker.actors import readmission
from shard_worker.actors.readmission import Readmission


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line moves with every turn of the loop."""
    monkeypatch.setattr(readmission, "_APART_S", 0.0)


async def test_a_short_line_is_let_in_one_by_one_in_its_order() -> None:
    """Nobody overtakes, and no two are let in by the same turn."""
    line = Readmission()
    came: list[int] = []
    turns: list[int] = []
    places = [line.line_up() for _ in range(5)]

    def note(place: "asyncio.Future[None]") -> None:
        came.append(places.index(place))

    for place in places:
        place.add_done_callback(note)
    while not all(place.done() for place in places):
        turns.append(sum(place.done() for place in places))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert came == [0, 1, 2, 3, 4]
    assert all(after - before <= 1 for before, after in pairwise(turns))


async def test_a_long_line_goes_in_faster() -> None:
    """A twentieth goes in at a time: a thousand need about a hundred turns, not a thousand."""
    line = Readmission()
    places = [line.line_up() for _ in range(1_000)]
    done, steps = 0, 0
    while done < len(places):
        await asyncio.sleep(0)
        now = sum(place.done() for place in places)
        steps += now > done
        done = now
    assert steps < 120


async def test_who_lines_up_after_the_last_keeps_the_distance_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else many that come one by one would each find the line empty, and all go in at once."""
    monkeypatch.setattr(readmission, "_APART_S", 3600.0)
    line = Readmission()
    await line.line_up()
    later = line.line_up()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not later.done()
    line.close()
    assert later.done()


async def test_who_gave_up_costs_nobody_a_turn() -> None:
    """A cancelled place is passed over: the next one goes in with the same turn."""
    line = Readmission()
    given_up, next_one = line.line_up(), line.line_up()
    given_up.cancel()
    while not next_one.done():
        await asyncio.sleep(0)
    assert given_up.cancelled()


async def test_closing_lets_everybody_in() -> None:
    """Nobody is left waiting, and no timer stays behind."""
    line = Readmission()
    places = [line.line_up() for _ in range(3)]
    line.close()
    assert all(place.done() for place in places)
    later = line.line_up()
    async with asyncio.timeout(5):
        await later
