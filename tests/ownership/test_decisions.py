"""The rules of claiming, serving and giving up: one case at a time."""

from collections.abc import Set

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.decisions import LIVE_S, RANK_S, UNOWNED_S, Observer, Steps, next_steps
from shard_worker.ownership.owners import ShardRow, View, WorkerRow
from shard_worker.ownership.share import rendezvous

S0 = ShardId(0)
NAMES = ["a", "b", "c"]


def worker(name: str, beat: int = 0, *, leaving: bool = False, cordoned: bool = False) -> WorkerRow:
    """A worker's row."""
    return WorkerRow(name, f"{name}1", "h", 1, 2, beat, False, leaving, cordoned)


def view(owner: str | None, target: str | None, *workers: WorkerRow) -> View:
    """One shard, at epoch 5."""
    row = ShardRow(S0, 5, owner, owner and f"{owner}1", target, "")
    return View({row.id: row for row in workers or map(worker, NAMES)}, {S0: row}, 1, "")


def steps(
    seen: View,
    *,
    present: Set[ShardId] = frozenset(),
    serving: Set[ShardId] | None = None,
    drained: Set[ShardId] = frozenset(),
    unowned_s: float = 0.0,
    live: Set[str] = frozenset(NAMES),
    leaving: bool = False,
) -> Steps:
    """What worker ``a`` does."""
    return next_steps(
        seen,
        worker="a",
        incarnation="a1",
        present=present,
        serving=present if serving is None else serving,
        drained=drained,
        unowned_s={S0: unowned_s},
        live=live,
        leaving=leaving,
    )


NOTHING = Steps([], [], [], [], [])
HERE = frozenset({S0})


def test_what_is_served_where_it_should_be_stays() -> None:
    """No step where database, target and memory agree."""
    assert steps(view("a", "a"), present=HERE) == NOTHING
    assert steps(view("a", None), present=HERE) == NOTHING
    assert steps(view("b", "b")) == NOTHING


def test_a_free_shard_is_claimed_at_once_by_its_target() -> None:
    """Nobody else is asked."""
    assert steps(view(None, "a")).claim == [S0]
    assert steps(view(None, "a", worker("a", cordoned=True))).claim == [S0]


def test_a_free_shard_of_nobody_waits_for_its_rank() -> None:
    """Half a second, and a fifth of a second more for each worker before us."""
    rank = rendezvous(S0, NAMES).index("a")
    due = UNOWNED_S + rank * RANK_S
    for target in (None, "b"):
        assert steps(view(None, target), unowned_s=due - 0.01) == NOTHING
        assert steps(view(None, target), unowned_s=due).claim == [S0]
    assert steps(view(None, None), unowned_s=UNOWNED_S, live=frozenset()).claim == [S0]


def test_a_worker_that_leaves_or_is_cordoned_takes_nothing_it_was_not_told_to() -> None:
    """And a leaving one not even that."""
    assert steps(view(None, None, worker("a", cordoned=True)), unowned_s=60, live=frozenset()) == NOTHING
    assert steps(view(None, "a"), unowned_s=60, leaving=True) == NOTHING


def test_a_shard_wanted_elsewhere_is_drained_and_then_released() -> None:
    """First nothing of it is on its way any more, then it is given up in the database."""
    assert steps(view("a", "b"), present=HERE).drain == [S0]
    assert steps(view("a", "b"), present=HERE, serving=frozenset()).drain == [S0]
    assert steps(view("a", "b"), present=HERE, serving=frozenset(), drained=HERE).release == [S0]
    assert steps(view("a", "b")).release == [S0]


def test_a_shard_is_kept_while_its_target_does_not_live() -> None:
    """Better here than nowhere."""
    assert steps(view("a", "b"), present=HERE, live=frozenset({"c"})) == NOTHING


def test_a_move_that_was_taken_back_ends_with_the_shard_served_anew() -> None:
    """A shard that no longer admits, and is wanted here after all, is adopted at a higher epoch."""
    assert steps(view("a", "a"), present=HERE, serving=frozenset()).adopt == [S0]


def test_what_the_database_says_is_ours_is_served() -> None:
    """As after a lost answer to a claim."""
    assert steps(view("a", "a")).adopt == [S0]
    assert steps(view("a", None)).adopt == [S0]


def test_what_another_has_is_dropped() -> None:
    """Also when it is nobody's."""
    assert steps(view("b", "a"), present=HERE).drop == [S0]
    assert steps(view(None, "b"), present=HERE) == NOTHING._replace(drop=[S0])
    assert steps(view(None, "a"), present=HERE) == NOTHING._replace(drop=[S0], claim=[S0])


def test_leaving_gives_up_everything() -> None:
    """Whatever the target, and whether or not anybody lives to take it."""
    assert steps(view("a", "a"), present=HERE, live=frozenset(), leaving=True).drain == [S0]
    assert steps(view("a", "a"), present=HERE, drained=HERE, live=frozenset(), leaving=True).release == [S0]


def test_a_worker_lives_only_while_its_beat_is_seen_to_move() -> None:
    """The first sight of a row proves nothing: it may be a dead worker's."""
    observer = Observer()
    for now, beat, expected in [(0.0, 7, False), (0.2, 8, True), (0.2 + LIVE_S, 8, False), (5.0, 9, True)]:
        seen = view("a", "a", worker("a"), worker("b", beat))
        observer.note(seen, now)
        assert ("b" in observer.live(seen, now)) is expected
    observer.restart()
    observer.note(seen, 5.1)
    assert observer.live(seen, 5.1) == frozenset(), "what went by between two sessions is not known"


def test_who_leaves_does_not_live() -> None:
    """Nothing is given to it."""
    observer = Observer()
    for beat in (1, 2):
        seen = view("a", "a", worker("b", beat, leaving=True), worker("c", beat))
        observer.note(seen, 0.1 * beat)
    assert observer.live(seen, 0.2) == {"c"}


def test_how_long_a_shard_is_unowned_begins_anew_with_each_owner() -> None:
    """Seen by this observer, without a gap."""
    observer = Observer()
    observer.note(view(None, None), 1.0)
    assert observer.unowned_s(1.5) == {S0: 0.5}
    observer.note(view("b", None), 2.0)
    assert observer.unowned_s(2.0) == {}
