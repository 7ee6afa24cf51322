"""Which worker may own a shard, by the journal format: shares, claims, targets, handoffs, takeovers."""

from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import Candidate, assign_shards
from shard_worker.ownership.handoff import (
    UNOWNED_S,
    LocalShards,
    LocalState,
    OwnershipActions,
    plan_actions,
    takeover_targets,
    without_capable_worker,
)
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

S0 = ShardId(0)
names = [f"w{number}" for number in range(6)]
candidates = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(names),
        leaving=st.booleans(),
        cordoned=st.booleans(),
        reads=st.integers(1, 3),
    ),
    max_size=6,
    unique_by=lambda worker: worker.name,
)
owned_shards = st.dictionaries(
    st.integers(0, 60).map(ShardId),
    st.tuples(st.one_of(st.none(), st.sampled_from([*names, "gone"])), st.integers(1, 3)),
    max_size=40,
)


@given(owned_shards, candidates)
def test_every_target_reads_the_shard(shards: dict[ShardId, tuple[str | None, int]], workers: list[Candidate]) -> None:
    """A shard has none only where no receiver reads it; one that is read where it is stays in a mixed cluster."""
    owners = {shard_id: owner for shard_id, (owner, _) in shards.items()}
    formats = {shard_id: each for shard_id, (_, each) in shards.items()}
    after = assign_shards(owners, workers, formats)
    by_name = {worker.name: worker for worker in workers}
    assert set(after) == set(owners)
    for shard_id, target in after.items():
        readers = [w for w in workers if not w.leaving and not w.cordoned and w.reads >= formats[shard_id]]
        if target is None:
            assert not readers
            continue
        chosen = by_name[target]
        assert not chosen.leaving
        assert chosen.reads >= formats[shard_id]
        assert not chosen.cordoned or owners[shard_id] == target


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_unowned_shards_are_spread_evenly_among_their_readers(newer: int, older: int, both: int, few: int) -> None:
    """Newer shards go to newer workers, and the older ones fill the others first."""
    workers = [Candidate(f"n{number}", reads=2) for number in range(both)]
    workers += [Candidate(f"o{number}") for number in range(few)]
    formats = {ShardId(number): 2 if number < newer else 1 for number in range(newer + older)}
    targets = assign_shards(dict.fromkeys(formats), workers, formats)
    counts = {worker.name: list(targets.values()).count(worker.name) for worker in workers}
    new, old = ([count for name, count in counts.items() if name[0] == kind] for kind in "no")
    assert max(new) - min(new) <= 1
    assert max(old) - min(old) <= 1
    assert max(old) <= max(new) + 1


def worker(name: str, reads: int = 1, *, cordoned: bool = False) -> WorkerRow:
    """A worker's row."""
    return WorkerRow(name, f"{name}1", "h", 1, 2, 0, False, False, cordoned, reads=reads)


def shard(owner: str | None, target: str | None = None, *, number: int = 0, shard_format: int = 2) -> ShardRow:
    """A shard's row, at epoch 5."""
    return ShardRow(ShardId(number), 5, owner, owner and f"{owner}1", target, "", format=shard_format)


def look(*rows: WorkerRow | ShardRow) -> OwnershipView:
    """A view of these rows."""
    return OwnershipView(
        {row.id: row for row in rows if isinstance(row, WorkerRow)},
        {row.id: row for row in rows if isinstance(row, ShardRow)},
        1,
        "",
    )


def steps_of(name: str, view: OwnershipView, *, waited_s: float = 0.0, leaving: bool = False) -> OwnershipActions:
    """The steps of a worker that serves what the view says it owns."""
    mine = frozenset(row.id for row in view.shards.values() if row.owner == name)
    local = LocalState(
        name, f"{name}1", LocalShards(mine, mine, frozenset()), handoffs={}, failed_s={}, leaving=leaving
    )
    unowned_s = dict.fromkeys(view.shards, waited_s)
    return plan_actions(view, local, live=frozenset(view.workers), unowned_s=unowned_s, now=0.0)


def test_a_worker_claims_only_what_it_reads() -> None:
    """Neither by its target nor after any wait."""
    view = look(worker("a"), worker("b", reads=2), shard(None, "a"))
    assert steps_of("a", view, waited_s=60.0).claim == []
    assert steps_of("b", view, waited_s=UNOWNED_S).claim == [S0]  # the first of those who read it


def test_a_cordoned_worker_claims_what_no_open_worker_reads() -> None:
    """As when there is no open worker at all."""
    view = look(worker("a"), worker("b", reads=2, cordoned=True), shard(None))
    assert steps_of("b", view, waited_s=60.0).claim == [S0]


def test_no_shard_is_prepared_for_a_worker_that_does_not_read_it() -> None:
    """Whatever its target says; for one that reads it, it is."""
    assert steps_of("b", look(worker("a"), worker("b", reads=2), shard("b", "a"))).prepare == []
    assert steps_of("b", look(worker("a", reads=2), worker("b", reads=2), shard("b", "a"))).prepare == [(S0, "a")]


def test_a_leaving_worker_gives_up_what_no_other_reads() -> None:
    """It is drained and released; what another reads is handed over."""
    view = look(worker("a"), worker("b", reads=2), shard("b", "a"), shard("b", number=1, shard_format=1))
    steps = steps_of("b", view, leaving=True)
    assert steps.drain == [S0]
    assert steps.prepare == [(1, "a")]


def test_a_takeover_targets_only_readers() -> None:
    """Without one the shard has no target, and is named as without a capable worker once it has no owner."""
    rows = worker("a"), worker("b", reads=2), worker("c", reads=2)
    view = look(*rows, shard("c"), shard("c", number=1, shard_format=1))
    assert takeover_targets(view, {("c", "c1")}, frozenset("ab")) == {S0: "b", ShardId(1): "a"}
    assert takeover_targets(view, {("c", "c1")}, frozenset("a")) == {S0: None, ShardId(1): "a"}


def test_a_shard_without_owner_and_reader_is_named() -> None:
    """Not one that is owned, and not one that a live worker reads."""
    view = look(
        worker("a"), worker("b", reads=2), shard(None), shard("a", number=1), shard(None, number=2, shard_format=1)
    )
    assert without_capable_worker(view, frozenset("a")) == [S0]
    assert without_capable_worker(view, frozenset("ab")) == []
    assert without_capable_worker(view, frozenset()) == [S0, ShardId(2)]


def test_formats_that_every_worker_reads_change_nothing() -> None:
    """The shards are balanced, as where nothing is known of formats."""
    owners: dict[ShardId, str | None] = {ShardId(number): "w0" for number in range(6)}
    workers = [Candidate("w0", reads=2), Candidate("w1", reads=2)]
    formats = dict.fromkeys(owners, 2)
    assert assign_shards(owners, workers, formats) == assign_shards(owners, workers)
    assert assign_shards(owners, [Candidate("w0"), Candidate("w1")], {}) == assign_shards(owners, workers)


def test_a_shard_that_is_read_where_it_is_stays_in_a_mixed_cluster() -> None:
    """Also one whose format is not known, which is the first; the others fill the emptiest reader."""
    workers = [Candidate("w0"), Candidate("w1", reads=2), Candidate("w2", reads=2), Candidate("w3", cordoned=True)]
    owners = dict(zip(map(ShardId, range(8)), ["w0", "w0", "w1", "w3", None, None, None, None], strict=True))
    formats = {ShardId(2): 2, ShardId(6): 2, ShardId(7): 1}
    assert assign_shards(owners, workers, formats) == {
        0: "w0",
        1: "w0",
        2: "w1",
        3: "w3",
        6: "w2",
        4: "w1",
        5: "w2",
        7: "w0",
    }


def test_a_reader_that_has_nothing_gets_shards_before_one_that_has_some() -> None:
    """Whatever the order of their names."""
    workers = [Candidate("w0"), *(Candidate(f"w{number}", reads=2) for number in range(1, 5))]
    held = {1: 3, 2: 3, 3: 2, 4: 0}
    owners: dict[ShardId, str | None] = {}
    for number, count in held.items():
        owners |= {ShardId(10 * number + each): f"w{number}" for each in range(count)}
    unassigned = [ShardId(100 + each) for each in range(4)]
    after = assign_shards(
        owners | dict.fromkeys(unassigned), workers, dict.fromkeys(owners, 2) | dict.fromkeys(unassigned, 2)
    )
    assert [after[shard_id] for shard_id in unassigned] == ["w4", "w4", "w3", "w4"]
