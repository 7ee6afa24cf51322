"""Bugs planted on purpose, one protocol step each: what the simulation does not catch here, it would not catch there.

Some change the model of a shell or of a transaction, by a name that is asked for at that place (``bugs``); the others
patch the real decisions.  Each names the invariants that may say so first, and which faults bring it out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Final, NamedTuple

import pytest
from threadcluster_operator.planning import planner as plan
from threadcluster_operator.planning.placement import Move, Placement, Policy, Shard, Worker, compute_placement

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import handoff
from tests.simulation import steward
from tests.simulation.faults import FAULTS
from tests.simulation.run import STEPS


class Planted(NamedTuple):
    """One bug."""

    name: str
    says: frozenset[str]
    """The invariants one of which must be the first that breaks."""
    faults: tuple[str, ...] = tuple(FAULTS)
    steps: float = STEPS
    """How often something goes wrong with a change of ownership, see `run`."""
    patches: bool = False
    """It changes the real decisions (`patched`), not a name in ``bugs``."""
    first: int = 0
    """The seed to begin with: for the rare ones, a little before the one that showed it last."""

    @property
    def named(self) -> frozenset[str]:
        """What the model is told."""
        return frozenset() if self.patches else frozenset({self.name})


def _bug(
    name: str,
    *says: str,
    faults: tuple[str, ...] = tuple(FAULTS),
    steps: float = STEPS,
    patches: bool = False,
    first: int = 0,
) -> Planted:
    return Planted(name, frozenset(says), faults, steps, patches, first)


_LINKS: Final = ("cut", "hang", "terminate", "stall")
_DEATHS: Final = ("pause", "suspend", "stall", "crash", "terminate")

PLANTED: Final = (
    # transactions
    _bug("fence without the beat", "patience", faults=_DEATHS),
    _bug("an end is no change", "patience", "lease", faults=_DEATHS),
    _bug("the beat without the attempt", "patience", "lease", faults=_DEATHS),
    _bug("claim by the fenced", "ended", faults=("roll", "hang"), steps=0.5),
    _bug("claim of what is owned", "lease", "journal", "handoff"),
    _bug("give to anyone", "ended", faults=("roll", "hang", "crash", "edit"), steps=0.2),
    _bug("give at the same epoch", "journal", "acknowledged", "served"),
    _bug("targets without the version", "limit", faults=("edit", "cordon", "crash", "roll")),
    # appends
    _bug("append without the epoch", "journal", "outcome", faults=_LINKS),
    _bug("append without the lock", "journal", "acknowledged", "outcome"),
    _bug("unknown decided at the same epoch", "outcome", "journal", faults=_LINKS),
    _bug("outcome read with the raise", "outcome", "journal", faults=_LINKS, first=160),
    _bug("outcome of a closed shard", "outcome", faults=("usurp", "hang", "cut"), steps=0.15, first=430),
    # the steward's shell
    _bug("head of the preparation", "journal", "acknowledged"),
    _bug("give before drained", "handoff"),
    _bug("give while served", "handoff"),
    _bug("drop forgotten", "lease", "handoff", "served"),
    _bug("observer not restarted", "takeover", faults=("restart_database",)),
    _bug("told twice", "journal", "acknowledged"),
    _bug(
        "told to another incarnation",
        "lease",
        "journal",
        "acknowledged",
        "handoff",
        faults=("roll", "terminate", "hang"),
        first=140,
    ),
    _bug(
        "told after the release",
        "lease",
        "journal",
        "acknowledged",
        "handoff",
        faults=("roll", "edit", "hang"),
        steps=0.2,
        first=580,
    ),
    _bug(
        "told after the gift", "lease", "journal", "acknowledged", "handoff", faults=("roll", "edit", "hang"), steps=0.2
    ),
    _bug("head before the last batch", "journal", "acknowledged", "lease"),
    _bug(
        "adopt at the same epoch", "journal", "acknowledged", "outcome", faults=("roll", "cut", "terminate"), first=690
    ),
    _bug(
        "raised unnoticed", "journal", "acknowledged", "outcome", faults=("cut", "hang", "roll"), steps=0.2, first=580
    ),
    # the lease and the membership
    _bug("lease from the answer", "lease", faults=_DEATHS),
    _bug("no wait for the predecessor", "lease", faults=("usurp",)),
    # the real decisions
    _bug("suspects ignore the wait", "patience", patches=True),
    _bug("suspects ignore the lock", "patience", patches=True),
    _bug("nobody claims what nobody owns", "served", patches=True),
    _bug("a handoff is never given up", "served", patches=True),
    _bug(
        *("a drop is never decided", "lease", "handoff", "served"),
        faults=("cut", "edit", "roll"),
        steps=0.3,
        patches=True,
    ),
    _bug("handoffs without limit", "limit"),
    _bug("the planner forgets what is under way", "limit", patches=True),
    _bug("the planner changes its mind", "moves", patches=True),
    _bug(
        *("orders beyond the limit are sent elsewhere", "limit"),
        faults=("edit", "cordon", "roll", "terminate"),
        patches=True,
    ),
)


@contextmanager
def patched(bug: Planted) -> Iterator[None]:
    """The real decisions with a bug in them."""
    real = handoff.plan_actions
    with pytest.MonkeyPatch.context() as patch:
        match bug.name if bug.patches else "":
            case "suspects ignore the wait":
                patch.setattr(handoff, "TTL_S", 0.2)
                patch.setattr(handoff, "LOCK_GONE_S", 0.2)
            case "suspects ignore the lock":
                patch.setattr(handoff, "TTL_S", handoff.LOCK_GONE_S)
            case "nobody claims what nobody owns":
                patch.setattr(handoff, "_may_claim", lambda *_: False)
            case "a handoff is never given up":
                patch.setattr(steward, "plan_actions", lambda *a, **k: real(*a, **k)._replace(abort=[]))
            case "a drop is never decided":
                patch.setattr(steward, "plan_actions", lambda *a, **k: real(*a, **k)._replace(drop=[]))
            case "the planner forgets what is under way":
                patch.setattr(plan, "next_moves", _due_forgetting)
            case "the planner changes its mind":
                patch.setattr(plan, "compute_placement", _place_anew(count()))
            case "orders beyond the limit are sent elsewhere":
                patch.setattr(plan, "next_moves", _due_elsewhere)
        yield


def _place_anew(calls: Iterator[int]) -> Callable[[Iterable[Shard], Iterable[Worker], Policy], Placement]:
    """Each time a plan is made, the first shard should be somewhere else."""

    def placed(shards: Iterable[Shard], workers: Iterable[Worker], policy: Policy) -> Placement:
        there = list(workers)
        return compute_placement(shards, there, policy._replace(pins={0: there[next(calls) % len(there)].name}))

    return placed


def _due_forgetting(
    placement: Placement, owners: Mapping[ShardId, str | None], targets: Mapping[ShardId, str | None], most: int
) -> list[Move]:
    """So many moves each time, whatever was ordered before."""
    del owners
    new = [move for move in placement.moves if targets.get(move.shard) != move.target]
    return [move for move in new if move.source is None] + [move for move in new if move.source is not None][:most]


def _due_elsewhere(
    placement: Placement, owners: Mapping[ShardId, str | None], targets: Mapping[ShardId, str | None], most: int
) -> list[Move]:
    """As `due` was: what has an order may be sent elsewhere, however many orders there are."""
    under_way = {
        move.shard
        for move in placement.moves
        if move.source is not None and targets.get(move.shard) not in (None, owners[move.shard])
    }
    new = [move for move in placement.moves if targets.get(move.shard) != move.target]
    fresh = [move for move in new if move.source is not None and move.shard not in under_way]
    waiting = set(fresh[max(0, most - len(under_way)) :])
    return [move for move in new if move not in waiting]
