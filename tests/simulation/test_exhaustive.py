"""Every interleaving of two workers, two shards, one handoff and the faults: see `exhaustive`."""

import time

import pytest

from tests.simulation.exhaustive import Found, search, small_waits
from tests.simulation.mutants import MUTANTS, patched
from tests.simulation.small_cluster import Bounds
from tests.simulation.violation import Violation

_PATIENCE_S = 7200
"""For a search that hangs.  The longest takes minutes of CPU time; a machine may be shared."""
HANDOFF = Bounds(3)
CRASH = Bounds(5, {"crashes": 1})
ALL_FAULTS = Bounds(6, {"crashes": 1, "pauses": 1, "appends": 1})
LEAVING = ALL_FAULTS._replace(leaving=True)
LOST_SESSION = Bounds(4, {"losses": 1, "appends": 1})
RETURN = Bounds(3, {"losses": 1, "leaves": 1})
"""The receiver of a handoff gives the shard back before its sender knows that it was transferred."""
FINDS = {
    "an end is no change": Bounds(3, {"crashes": 1}),
    "transfer at the same epoch": Bounds(2, {"appends": 1}),
    "transfer while draining": Bounds(2, {"appends": 1}),
    "transfer while served": HANDOFF,
    "drop not executed": HANDOFF,
    "transferred shard adopted twice": Bounds(2, {"appends": 1}),
    "adopted epoch not marked as used": Bounds(2, {"appends": 1}),
    "head before the last append": Bounds(2, {"appends": 1}),
    "heads not read": Bounds(2, {"appends": 1}),
    "drain begins before the receiver is ready": HANDOFF,
    "every wait is short": Bounds(3, {"crashes": 1}),
    "a held lock does not count": Bounds(4, {"pauses": 1}),
    "the wait begins before the end of the session": Bounds(3, {"crashes": 1}),
    "no shard is dropped": Bounds(2, {"losses": 1}),
    "no shard is adopted from a view": Bounds(2, {"losses": 1}),
    "handoffs without limit": Bounds(3, moved=2),
    "handoffs under way do not count": Bounds(3, moved=2),
    "fence without the beat": Bounds(5, {"pauses": 1}),
    "the beat without the attempt": Bounds(4, {"pauses": 1, "unlocks": 1}),
    "claim by the fenced": Bounds(3, {"leaves": 1}, free=2),
    "claim of owned shards": Bounds(4, {"pauses": 1}, free=1),
    "transfer to any receiver": Bounds(1, {"leaves": 1}),
    "targets without the version": Bounds(1, {"edits": 1}, planned=True),
    "detector not restarted with the session": Bounds(4, {"restarts": 1}),
    "notification of another incarnation": Bounds(4, {"crashes": 1, "starts": 1}),
    "transferred epoch not marked as used": Bounds(3, {"leaves": 1}),
    "used epochs forgotten with the session": Bounds(2, {"losses": 1, "appends": 1}),
    "drain of an aborted handoff still counts": Bounds(4, {"appends": 1}),
    "handoff goes on after an adoption": Bounds(3, {"leaves": 1}),
    "a replaced incarnation is fenced at once": Bounds(1, {"crashes": 1, "starts": 1}),
    "free shards are not claimed without a target": Bounds(1, free=1),
    "no handoff is aborted": Bounds(2, {"leaves": 1}),
    "the planner forgets ordered moves": Bounds(1, planned=True, cordon="draining"),
    "the planner changes its mind": Bounds(2, planned=True),
    "append without the lock": Bounds(5, {"pauses": 1, "appends": 1}),
}
"""The planted bugs that the search finds by itself, each within these bounds."""
NOT_FOUND = {
    "released epoch not marked as used": "a view comes at each tick, and drops the shard before another worker may claim it",
    "used epoch not raised": "needs an append of unknown outcome: the model of the host is not a part of the small cluster",
    "raised epoch not noted": "as above",
    "append without the epoch": "as above",
    "unknown outcome decided at the same epoch": "as above",
    "outcome read with the raise": "as above",
    "outcome of a closed shard": "as above",
    "head of the preparation": "as above",
    "lease from the answer": "is in the model of a process, which the small cluster does not run",
    "no wait for the predecessor": "as above",
    "orders beyond the limit are sent elsewhere": "needs a third worker",
}
"""The others, which the schedules find, and why the search does not."""


ALL_BOUNDS = list({str(bounds): bounds for bounds in FINDS.values()}.values())


def explore(bounds: Bounds, most_states: int = 1_000_000) -> Found:
    """The end of a search that finds nothing; a violation fails with the steps that lead to it."""
    began = time.process_time()
    with small_waits():
        try:
            found = search(bounds, most_states)
        except Violation as violation:
            pytest.fail(f"{bounds}: {violation}\n" + "\n".join(violation.__notes__))
    print(f"{bounds}: {found}, {time.process_time() - began:.0f} s of CPU time")
    return found


def test_every_interleaving_of_a_handoff_keeps_the_invariants() -> None:
    """Without faults: the frontier empties."""
    found = explore(HANDOFF)
    assert found.complete, found
    assert found.states > 500


def test_every_interleaving_of_a_handoff_whose_answer_is_lost_keeps_the_invariants() -> None:
    """The shard comes back before its first owner knows that it was gone; a part of what `RETURN` allows."""
    found = explore(RETURN._replace(ticks=0))
    assert found.complete, found


@pytest.mark.soak
@pytest.mark.timeout(_PATIENCE_S)
@pytest.mark.parametrize(
    "bounds",
    [CRASH, ALL_FAULTS, LEAVING, LOST_SESSION, RETURN],
    ids=["crash", "all faults", "leaving", "lost session", "return"],
)
def test_every_interleaving_with_faults_keeps_the_invariants(bounds: Bounds) -> None:
    """The frontier empties, or the bound of states is reached; prints the depth up to which nothing is left out."""
    found = explore(bounds)
    assert found.complete or found.states >= 1_000_000


@pytest.mark.soak
@pytest.mark.timeout(_PATIENCE_S)
@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
def test_without_a_planted_bug_the_same_search_finds_nothing(bounds: Bounds) -> None:
    """Else it would not be the bug that it finds."""
    found = explore(bounds, 200_000)
    assert found.complete or found.states >= 200_000


@pytest.mark.soak
@pytest.mark.timeout(_PATIENCE_S)
@pytest.mark.parametrize("name", FINDS)
def test_the_search_finds_a_planted_bug(name: str) -> None:
    """By an invariant that is about it."""
    bug = next(each for each in MUTANTS if each.name == name)
    with small_waits(), patched(bug), pytest.raises(Violation) as caught:
        search(FINDS[name])
    assert caught.value.invariant in bug.breaks


def test_the_search_finds_most_planted_bugs() -> None:
    """By itself, without a schedule of chance."""
    assert len(FINDS) >= 30
    assert {*FINDS, *NOT_FOUND} == {each.name for each in MUTANTS}
    assert not FINDS.keys() & NOT_FOUND.keys()
