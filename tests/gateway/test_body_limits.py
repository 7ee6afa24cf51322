"""Bounds before a body is decoded or a text normalised: the fast count equals the slow one."""

import asyncio
import json
import unicodedata
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.gateway.http import json_bounds
from shard_worker.gateway.http.json_bounds import JsonBounds
from shard_worker.gateway.http.problems import ProblemRaised
from shard_worker.gateway.http.turn_budget import TURN_S, Piece, TurnBudget
from shard_worker.gateway.public.routes import COMMANDS, CommandRoute
from shard_worker.gateway.public.texts import COMBINING_MOST, has_long_combining_run
from tests.gateway.serving import THREAD, Served
from tests.support.polling import eventually
from tests.support.problem_checks import check

_TRICKY = st.text(st.sampled_from('",:[]{}\\é\n'), max_size=8)
_VALUES = st.recursive(
    st.none() | st.integers() | _TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TRICKY, inner, max_size=4),
    max_leaves=20,
)


def counted(value: object) -> JsonBounds:
    """Count the members of a decoded value."""
    if isinstance(value, dict):
        inner = [counted(member) for member in value.values()]
        own = (len(value), max(0, len(value) - 1), 1)
    elif isinstance(value, list):
        inner = [counted(member) for member in value]
        own = (0, max(0, len(value) - 1), 1)
    else:
        return JsonBounds(0, 0, 0)
    return JsonBounds(
        *(mine + sum(each) for mine, each in zip(own, zip(*inner, strict=True), strict=True)) if inner else own
    )


@given(value=_VALUES, ascii_only=st.booleans())
def test_structure_is_counted_as_it_is_decoded(value: object, ascii_only: bool) -> None:
    """A body exactly at its counts passes, whatever its strings hold; one below any of them is refused."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    bounds = counted(value)
    json_bounds.check(raw, bounds._replace(values=bounds.values + 1))  # a lone string has no comma to count it by
    for place, count in enumerate(bounds):
        if count:
            with pytest.raises(ProblemRaised, match="validation-failed"):
                json_bounds.check(raw, JsonBounds(*(each - (index == place) for index, each in enumerate(bounds))))


@given(raw=st.binary(max_size=200) | st.text(st.sampled_from('"\\[{,:'), max_size=200).map(str.encode))
def test_counting_is_total(raw: bytes) -> None:
    """Whatever the bytes are, they pass or are refused."""
    for bounds in (JsonBounds(0, 0, 0), JsonBounds(3, 3, 3), json_bounds.ORDINARY):
        with suppress(ProblemRaised):
            json_bounds.check(raw, bounds)


_RUNS = st.lists(
    st.tuples(st.sampled_from("ae\u1100😀"), st.integers(0, 70), st.sampled_from("\u0301\u0315\u0345\u3099")),
    max_size=8,
)


@given(runs=_RUNS, begins_with_marks=st.integers(0, 70))
def test_a_long_run_is_found_wherever_it_is(runs: list[tuple[str, int, str]], begins_with_marks: int) -> None:
    """Exactly the texts with more than thirty combining characters in a row, as a count of each run says."""
    text = "\u0301" * begins_with_marks + "".join(base + mark * count for base, count, mark in runs)
    longest = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    assert has_long_combining_run(text) == (longest > COMBINING_MOST)


async def test_a_used_up_turn_admits_no_request() -> None:
    """The next body waits for the next turn of the loop, where the allowance is whole again."""
    budget = TurnBudget()
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    await budget.admit()
    asyncio.get_running_loop().call_soon(count)
    await budget.admit()
    assert turns == 0, "what is admitted at once takes no turn"
    budget.spend(TURN_S)
    await budget.admit()
    assert turns == 1


async def test_what_a_body_took_counts_whatever_became_of_it() -> None:
    """Also when it was refused."""
    budget = TurnBudget()
    with pytest.raises(ValueError, match="refused"), Piece(budget):
        raise ValueError("refused")
    assert budget._spent_s > 0.0


async def test_a_plain_body_does_not_wait_for_large_ones(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While large bodies wait for a turn, a small command is answered."""
    await api.create()
    gate = asyncio.Event()
    monkeypatch.setattr(TurnBudget, "admit", lambda _: gate.wait())
    large = asyncio.create_task(api.add(*["x" * 1_000] * 5))
    await eventually(lambda: api.gateway.metrics.in_flight == 1, what="the large body is waiting")
    assert (await api.add("small")).status == 200
    assert not large.done()
    gate.set()
    assert (await large).status == 200


@pytest.mark.parametrize("route", COMMANDS, ids=lambda route: route.operation_id)
async def test_each_route_has_its_limit_of_bytes(api: Served, route: CommandRoute) -> None:
    """1 MiB for messages, 128 KiB for every other command; exactly so much is allowed."""
    limit = 1024 * 1024 if route.operation_id == "addMessages" else 128 * 1024
    path = route.template.replace("{threadId}", THREAD)
    check(await api.post(path, b"{}" + b" " * (limit - 2)), 400, "validation-failed")
    check(await api.post(path, b"{}" + b" " * (limit - 1)), 413, "body-too-large")
