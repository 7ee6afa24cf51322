"""The local supervisor's next steps: one case at a time, and followed to the end from anywhere."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from threadcluster_operator.local.plan import Next, Observed, next_steps

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.share import Candidate, plan_hash, share

Owners = dict[ShardId, str | None]

NAMES = [f"c-{number}" for number in range(5)]


def owners(*names: str | None) -> Owners:
    """The owner of each shard, from 0."""
    return {ShardId(number): name for number, name in enumerate(names)}


def observed(
    owned: Owners,
    targets: Owners | None = None,
    *,
    serving: Mapping[str, frozenset[ShardId]] | None = None,
    version: int = 4,
) -> Observed:
    """A cluster whose targets are where the shards are, and that serves what it owns, where nothing else is said."""
    if serving is None:
        serving = {name: frozenset(s for s, owner in owned.items() if owner == name) for name in NAMES}
    return Observed(version, owned, owned if targets is None else targets, serving)


def steps(replicas: int, running: int, seen: Observed | None) -> Next:
    """The next steps of the cluster ``c``, of which the first ``running`` workers run."""
    return next_steps("c", replicas, frozenset(NAMES[:running]), seen)


def test_a_settled_cluster_needs_nothing() -> None:
    """Everyone runs, serves its share, and nobody else does."""
    assert steps(2, 2, observed(owners("c-0", "c-1", "c-0"))) == Next(("c-0", "c-1"), None, (), converged=True)


def test_nothing_is_stopped_or_planned_without_an_observation() -> None:
    """Who owns what is unknown: only what should run is started."""
    assert steps(1, 3, None) == Next(("c-0",), None, (), converged=False)


def test_nobody_wanted_means_everyone_ends() -> None:
    """There is no receiver, and what runs is stopped without waiting for one."""
    for seen in (None, observed(owners("c-0", "c-1"))):
        assert steps(0, 2, seen) == Next((), None, ("c-0", "c-1"), converged=False)
        assert steps(0, 0, seen) == Next((), None, (), converged=True)


def test_a_new_cluster_gets_its_first_plan() -> None:
    """Shards that nobody owns are no moves."""
    plan = steps(2, 2, observed(owners(None, None, None), {}, version=0)).plan
    assert plan is not None
    targets = share(owners(None, None, None), [Candidate("c-0"), Candidate("c-1")])
    assert plan == (0, plan_hash(targets), targets, 0)


def test_one_more_worker_gets_its_share() -> None:
    """As few moves as that takes, from the plan that was seen."""
    plan = steps(3, 2, observed(owners("c-0", "c-1", "c-0", "c-1", "c-0", "c-1"), version=7)).plan
    assert plan is not None
    assert (plan.made_from, plan.moves) == (7, 2)
    assert list(plan.targets.values()).count("c-2") == 2


def test_a_plan_that_is_under_way_is_not_made_again() -> None:
    """Targets that are good stay, wherever the shards are."""
    now = steps(2, 2, observed(owners("c-0", "c-0"), owners("c-0", "c-1")))
    assert now == Next(("c-0", "c-1"), None, (), converged=False)


def test_a_wish_that_was_withdrawn_leaves_nothing_behind() -> None:
    """Targets at a worker that is wanted no more go back to the owners that are."""
    plan = steps(2, 3, observed(owners("c-0", "c-1", "c-0"), owners("c-0", "c-1", "c-2"))).plan
    assert plan is not None
    assert plan.targets == owners("c-0", "c-1", "c-0")
    assert plan.moves == 0


def test_a_surplus_worker_is_stopped_once_it_owns_nothing() -> None:
    """Not while a plan is not recorded, a shard is its own, or a target names it."""
    here, there = owners("c-0", "c-1"), owners("c-0", "c-0")
    planning = steps(1, 2, observed(here))
    assert planning.plan is not None
    assert planning.stop == ()
    assert steps(1, 2, observed(here, there)).stop == ()
    drained = steps(1, 2, observed(there))
    assert drained == Next(("c-0",), None, ("c-1",), converged=False)
    assert steps(1, 1, observed(there)).converged


def test_a_surplus_worker_that_would_get_a_shard_is_not_stopped_yet() -> None:
    """Until the targets that name it are replaced, it may own one at any moment."""
    now = steps(1, 2, observed(owners("c-0", "c-0"), owners("c-0", "c-1")))
    assert now.plan is not None
    assert now.stop == ()


def test_it_is_not_settled_before_every_owner_serves() -> None:
    """Owned by nobody, owned and not served, not running, or told by nobody: not converged."""
    good = owners("c-0", "c-1")
    assert not steps(2, 2, observed(owners("c-0", None), good)).converged
    assert not steps(2, 2, observed(good, serving={"c-0": frozenset({ShardId(0)}), "c-1": frozenset()})).converged
    assert not steps(2, 2, observed(good, serving={"c-0": frozenset({ShardId(0)})})).converged
    assert not steps(2, 1, observed(good)).converged


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([None, *NAMES]), min_size=1, max_size=12),
    st.lists(st.sampled_from([None, *NAMES]), min_size=12, max_size=12),
    st.frozensets(st.sampled_from(NAMES)),
    st.integers(1, 5),
)
def test_from_anywhere_the_steps_lead_to_a_settled_cluster(
    owned: list[str | None], wanted: list[str | None], running: frozenset[str], replicas: int
) -> None:
    """Carried out one after the other, and no worker is stopped while it has a shard; then nothing moves any more."""
    holding, targets = owners(*owned), owners(*wanted[: len(owned)])
    version = 1
    for _ in range(6):
        now = next_steps("c", replicas, running, observed(holding, targets, version=version))
        if now.converged:
            break
        assert not set(now.stop) & {*holding.values(), *now.run}
        running = (running | set(now.run)) - set(now.stop)
        if now.plan is not None:
            assert now.plan.made_from == version
            targets, version = dict(now.plan.targets), version + 1
        else:
            holding = dict(targets)
    assert now == Next(tuple(NAMES[:replicas]), None, (), converged=True)
    assert running == set(now.run)
