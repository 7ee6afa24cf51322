"""Bugs that an earlier release could have had unnoticed: each is planted, and a test of the gate fails for it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutation.planting import planted
from tests.operator.controller import test_rollout, test_scaling, test_status
from tests.operator.controller.simulated import Simulation, settle
from tests.ownership import test_handoff
from tests.support.pure_modules import ROOT

_CONTROLLER = Path("operator/threadcluster_operator/controller")


class Named(NamedTuple):
    """One bug, and the test that fails for it."""

    file: Path
    function: str
    old: str
    new: str
    killer: Callable[[], None]


def ready() -> Simulation:
    """A cluster that is Ready."""
    made = Simulation()
    settle(made)
    return made


def _gate(**pods: str) -> Callable[[], None]:
    return lambda: test_rollout.test_a_change_has_taken_effect_when_every_worker_runs_it(ready(), pods, {}, 2, False)


NAMED = {
    "Ready gate: and → or": Named(
        _CONTROLLER / "rollout.py", "rolled_out", "        and ", "        or ", _gate(revisions="nnnn")
    ),
    "Ready gate: ready and new → ready or new": Named(
        _CONTROLLER / "rollout.py",
        "rolled_out",
        "all(pod.ready and pod.revision",
        "all(pod.ready or pod.revision",
        _gate(revisions="nnn", ready="yny"),
    ),
    "moving negated": Named(
        _CONTROLLER / "actions.py",
        "plan_actions",
        "count_moving(seen.ownership) > 0",
        "not count_moving(seen.ownership) > 0",
        lambda: test_scaling.test_a_cluster_whose_shards_move_is_looked_at_often(ready()),
    ),
    "moving negated in the status": Named(
        Path("operator/threadcluster_operator/planning/planner.py"),
        "count_moving",
        "observed.targets.get(shard) not in (None, owner)",
        "observed.targets.get(shard) in (None, owner)",
        lambda: test_status.test_shards_on_their_way_are_counted(ready()),
    ),
    "imbalance negated": Named(
        _CONTROLLER / "status.py",
        "_imbalance_percent",
        "return round(placed.imbalance_percent)",
        "return -round(placed.imbalance_percent)",
        lambda: test_status.test_the_imbalance_is_that_of_the_plan(ready(), (6, 4, 3), 38.5),
    ),
    "updatedReplicas negated": Named(
        _CONTROLLER / "status.py",
        "status_of",
        "if newest is not None and pod.revision == newest",
        "if not (newest is not None and pod.revision == newest)",
        lambda: test_status.test_workers_are_counted(ready()),
    ),
    "reason without its text": Named(
        _CONTROLLER / "actions.py",
        "_replicas",
        'f"{name}-{staying[-1]} still has shards"',
        '""',
        lambda: test_scaling.test_a_worker_that_has_shards_is_not_removed(ready()),
    ),
    "condition without its text": Named(
        _CONTROLLER / "status.py",
        "_with_timestamps",
        '"message": each.message[:_MESSAGE_MOST]',
        '"message": ""',
        lambda: test_status.test_shards_without_owner_are_named(ready()),
    ),
    "takeover balanced by owners": Named(
        Path("shard_worker/ownership/handoff.py"),
        "_expected",
        "row.target if row.target in live else row.owner",
        "row.owner",
        test_handoff.test_takeover_targets_count_a_shard_where_it_is_going,
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_mutant_is_killed(name: str) -> None:
    """The test passes without the bug, and fails with it."""
    bug = NAMED[name]
    path = ROOT / bug.file
    source = path.read_text()
    before, function, after = source.partition(f"def {bug.function}(")
    body, separator, rest = after.partition("\ndef ")
    assert bug.old in body, f"{bug.function} has changed: plant the bug in its new text"
    bug.killer()
    mutant = before + function + body.replace(bug.old, bug.new) + separator + rest
    with planted(path, bug.function, mutant), pytest.raises(AssertionError):
        bug.killer()
