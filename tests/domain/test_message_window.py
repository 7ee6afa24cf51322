"""Pages before, after and around a message: the order of taking, against the contract's own way of counting."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain.message_window import Side, taking_order
from tests.support.examples import examples
from tests.support.naive_window import naive_window


def naive(side: Side, below: int, above: int, count: int, limit: int) -> list[int]:
    """The numbers of a page, as the contract counts them."""
    older, own, newer = list(range(below)), list(range(below, above)), list(range(above, count))
    return naive_window(side, older, own, newer, limit)


@examples(400)
@given(side=st.sampled_from(Side), older=st.integers(0, 12), own=st.integers(0, 1), newer=st.integers(0, 12))
def test_any_number_that_is_taken_first_is_a_page_of_that_limit(side: Side, older: int, own: int, newer: int) -> None:
    """And each page is an unbroken run; every message that there is comes at last."""
    below, above, count = older, older + own, older + own + newer
    for limit in range(1, count + 3):
        taken = list(islice(taking_order(side, below=below, above=above, count=count), limit))
        assert sorted(taken) == naive(side, below, above, count, limit)
        assert not taken or sorted(taken) == list(range(min(taken), max(taken) + 1))
        if side is Side.AROUND and own:
            assert taken[0] == below, "the anchor is the last that a cut leaves out"


@given(older=st.integers(0, 12), newer=st.integers(0, 12))
def test_pages_of_both_sides_and_the_anchor_are_the_whole_thread(older: int, newer: int) -> None:
    """No message is on two of them."""
    count = older + 1 + newer
    sides = [list(taking_order(side, below=older, above=older + 1, count=count)) for side in (Side.BEFORE, Side.AFTER)]
    assert sorted([*sides[0], older, *sides[1]]) == list(range(count))
