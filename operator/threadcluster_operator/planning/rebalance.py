"""The state of moves between two turns of a planner: balance that has begun, and plans that a user agreed to.

The rest follows from the present alone, turn by turn (`planner`).  The state is lost with the process, which is harmless: a
plan that was half carried out is planned again, or not, as the resource says.
"""

from collections import OrderedDict
from typing import Any, Final

from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.planning.placement import Move, Placement
from threadcluster_operator.planning.planner import (
    PlanPreview,
    PlanResult,
    ShardOwnership,
    next_steps,
    preview,
    same_plan,
    still_valid,
)

_SHOWN_MOST: Final = 16
"""Maximum number of plans that are remembered: a person compares a few."""


Document = dict[str, Any]
"""A JSON object of a planner: a plan, the beginning of moves, or their progress."""


class MovesRefused(Exception):
    """Moves that were asked for are not made; the message is the reason."""


class RebalanceSession:
    """The moves of the cluster ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._balancing = False
        self._agreed: tuple[Move, ...] = ()
        self._carried_out: tuple[str, tuple[Move, ...]] = ("", ())
        self._shown: OrderedDict[str, PlanPreview] = OrderedDict()

    def steps(self, spec: ThreadClusterSpec, running: frozenset[str], observed: ShardOwnership | None) -> PlanResult:
        """The next steps, remembering what the turn after them must know."""
        found = next_steps(self._name, spec, running, observed, rebalance_now=self._balancing, agreed=self._agreed)
        self._balancing, self._agreed = found.balancing, found.agreed
        return found

    def forget(self) -> None:
        """Other wishes hold from now on: what was begun for those of before is not gone on with."""
        self._balancing, self._agreed = False, ()

    def add(self, moves: tuple[Move, ...]) -> None:
        """Make these moves as well."""
        self._agreed += moves

    @property
    def agreed(self) -> tuple[Move, ...]:
        """The moves that wait to be ordered."""
        return self._agreed

    def busy(self) -> bool:
        """Whether agreed moves wait to be ordered."""
        return bool(self._agreed)

    def show(self, spec: ThreadClusterSpec, running: frozenset[str], observed: ShardOwnership | None) -> Document:
        """The plan that `begin` would carry out now."""
        observed, placement = self._whole_plan(spec, running, observed)
        self._shown[placement.hash] = PlanPreview(placement, spec, running, observed)
        self._shown.move_to_end(placement.hash)
        if len(self._shown) > _SHOWN_MOST:
            self._shown.popitem(last=False)
        return {
            "hash": placement.hash,
            "planVersion": observed.plan_version,
            "mode": spec.rebalance.mode,
            "strategy": spec.rebalance.strategy,
            "imbalancePercent": round(placement.imbalance_percent, 1),
            "moves": [
                {"shard": move.shard, "source": move.source, "target": move.target, "reason": move.reason}
                for move in placement.moves
            ],
        }

    def begin(
        self, spec: ThreadClusterSpec, running: frozenset[str], observed: ShardOwnership | None, hash: str | None
    ) -> Document:
        """Make the moves of the whole plan of now, or exactly those of the plan with this hash.

        Raises `MovesRefused` in mode Paused, without an observation, and when that plan is not what would be done now.
        """
        if spec.rebalance.mode == "Paused":
            raise MovesRefused("spec.rebalance.mode is Paused, so no shard is moved; set it to Auto or Manual first")
        observed, placement = self._whole_plan(spec, running, observed)
        if hash is not None and not same_plan(hash, placement):
            shown = self._shown.get(hash)
            if shown is None or not still_valid(shown, spec, running, observed):
                raise MovesRefused(
                    f"plan {hash} is not what would be done now: the cluster has changed since, or there never was such a"
                    f" plan; now it would be {placement.hash}, with {len(placement.moves)} moves (see `threadcluster plan`)"
                )
            placement = shown.placement
        self._agreed = placement.moves
        self._carried_out = (placement.hash, placement.moves)
        return {"hash": placement.hash, "moves": len(placement.moves)}

    def progress(self, observed: ShardOwnership | None) -> Document:
        """How far the moves are that `begin` began last."""
        plan_hash, moves = self._carried_out
        there, gone_wrong = [], []
        for move in moves:
            if observed is None or move in self._agreed:
                continue
            if observed.owners.get(move.shard) == move.target:
                there.append(move.shard)
            elif observed.targets.get(move.shard) != move.target:
                gone_wrong.append(move.shard)
        return {
            "hash": plan_hash,
            "moves": len(moves),
            "moved": len(there),
            "left": len(moves) - len(there) - len(gone_wrong),
            "givenUp": gone_wrong,
        }

    def _whole_plan(
        self, spec: ThreadClusterSpec, running: frozenset[str], observed: ShardOwnership | None
    ) -> tuple[ShardOwnership, Placement]:
        if observed is None:
            raise MovesRefused("no worker says who owns what; see `threadcluster status`")
        return observed, preview(self._name, spec, running, observed, rebalance_now=True)
