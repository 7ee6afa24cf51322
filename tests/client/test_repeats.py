"""Dropping repeats."""

from hypothesis import given
from hypothesis import strategies as st
from threadcluster_client.repeats import SeenEvents


@given(st.data())
def test_each_event_is_new_once_however_often_a_resume_repeats(data: st.DataObject) -> None:
    """Streams repeat from any earlier place on; epochs grow within a thread."""
    epochs = {
        thread: sorted(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)))
        for thread in sorted(data.draw(st.sets(st.sampled_from("abc"), min_size=1)))
    }
    seen = SeenEvents()
    new: list[tuple[str, int, int]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        for thread, of_events in sorted(epochs.items()):
            reached = sum(1 for each in new if each[0] == thread)
            start = data.draw(st.integers(0, reached))
            stop = data.draw(st.integers(start, len(of_events)))
            for number in range(start, stop):
                if seen.add(thread, number + 1, of_events[number]):
                    new.append((thread, number + 1, of_events[number]))
    for thread, of_events in epochs.items():
        got = [each[1:] for each in new if each[0] == thread]
        assert got == [(number + 1, epoch) for number, epoch in enumerate(of_events)][: len(got)]


def test_an_event_after_a_lost_tail_is_new() -> None:
    """It has a number of before under another epoch, which may be lower where no worker lived through the fail-over."""
    seen = SeenEvents()
    assert seen.add("a", 7, 6)
    assert not seen.add("a", 6, 5)
    assert seen.add("a", 5, 7)
    assert seen.add("b", 7, 6)
    seen.reset()
    assert not seen.add("b", 7, 6)
    assert seen.add("b", 7, 5)
    assert not seen.add("b", 7, 5)
    assert not seen.add("b", 6, 4)


def test_the_thread_that_was_silent_for_longest_is_forgotten_first() -> None:
    """Memory is bounded."""
    seen = SeenEvents(threads=2)
    for thread, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        assert seen.add(thread, number, 1)
    assert not seen.add("a", 2, 1)
    assert not seen.add("c", 1, 1)
    assert seen.add("b", 1, 1)
