"""Which worker should have which shard, and which shards move for it, most urgent first: pure, for every platform.

`shard_worker.ownership.assignment` is the rule by which workers help themselves; this is the planner's, which also knows of
capacity, pins, load and patience.  It keeps five invariants:

* It follows from the present alone.  A shard that is on its way to a worker that may have it counts as being there.
* The order of the inputs does not matter; ties go to the name or number that sorts first.
* A shard moves only off a worker that may not keep it, to its pin, or for balance; every move for balance leaves its
  receiver clearly below where its source was.
* A planner that orders the first moves of a plan by count and asks again, with `rebalance_now` while
  `Placement.balancing`, gets the rest of the same plan.
* Balance by load settles: what it has balanced stays while loads wobble by 5 %.

`balancer` evens the loads out.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from operator import attrgetter
from typing import Final, NamedTuple

from shard_worker.contract_internal import plan_hash
from shard_worker.domain.ids import ShardId
from threadcluster_operator.api import Mode, Strategy
from threadcluster_operator.planning.balancer import Balancer, Bin, HeldShard

BASE_LOAD: Final = 1.0
"""Commands/s that every shard counts at least, so that idle shards spread by count."""


class Shard(NamedTuple):
    """A shard as it is: its owner, its target, its commands/s, and the format that its journal is written in."""

    id: ShardId
    owner: str | None
    target: str | None
    load: float = 0.0
    format: int = 1


class Worker(NamedTuple):
    """A worker as it is.  One that leaves, drains or is dead keeps nothing; a cordoned one gets no more."""

    name: str
    capacity: float = 1.0
    """Its part of the whole, relative to the other workers' capacities."""
    live: bool = True
    leaving: bool = False
    cordoned: bool = False
    draining: bool = False
    reads: int = 1
    """The newest journal format that it reads: it gets no shard of a newer one."""

    @property
    def may_keep(self) -> bool:
        """It may keep the shards that it has."""
        return self.live and not self.leaving and not self.draining


class Policy(NamedTuple):
    """The user's policy of moves.

    Auto does all; Manual balances only by command; Paused orders no move of a shard whose owner is alive.  Shards
    without an owner are placed in every mode.
    """

    strategy: Strategy = "Count"
    mode: Mode = "Auto"
    max_concurrent_moves: int = 4
    imbalance_threshold_percent: float = 10.0
    """How far above its share a worker may be before shards move for balance."""
    pins: Mapping[int, str] = {}
    rebalance_now: bool = False
    """Balance without regard to the threshold, and also in mode Manual."""


class Move(NamedTuple):
    """A shard that should change its owner, and why; without a source no worker serves it."""

    shard: ShardId
    source: str | None
    target: str
    reason: str


class Placement(NamedTuple):
    """Where every shard should be."""

    targets: Mapping[ShardId, str | None]
    """None only for a shard that no worker has, while no worker may have it."""
    moves: tuple[Move, ...]
    """The shards that are not at their target yet, most urgent first; orders under way are among them."""
    hash: str
    """Of the targets: tells one plan from another."""
    imbalance_percent: float
    """How far the fullest worker is above its share before any move for balance; 0 where no move would lower it.

    The status of a ThreadCluster and `threadcluster plan` both show this figure.
    """
    balancing: bool
    """Some moves are for balance, and were not ordered yet: ask with `Policy.rebalance_now` until this is false."""
    unreadable: tuple[ShardId, ...] = ()
    """The shards that are where they may not stay, or nowhere, because no worker that may get one reads its format."""


class _Urgency(IntEnum):
    UNOWNED = 0
    LEAVING = 1
    DRAINING = 2
    PINNED = 3
    BALANCE = 4


def compute_placement(shards: Iterable[Shard], workers: Iterable[Worker], policy: Policy) -> Placement:
    """Where every shard should be, and the moves for it.

    Costs O(S log S + S K + M (log W + K)), for S shards, W workers of K different capacities, and M moves for balance.
    Raises `ValueError` when two workers have one name, two shards have one id, or a capacity is not above 0.
    """
    plan = _Plan(sorted(shards, key=attrgetter("id")), sorted(workers, key=attrgetter("name")), policy)
    plan.settle_places()
    balancer = Balancer(plan.sites)
    plan.place_unassigned(balancer)
    balancer.settle_fair()
    imbalance_percent = balancer.imbalance_percent(policy.strategy)
    moves = plan.balance(balancer)
    return Placement(
        plan.targets,
        plan.in_order(moves),
        plan_hash(plan.targets),
        imbalance_percent,
        bool(moves),
        tuple(sorted(plan.unreadable)),
    )


class _Plan:
    """One run of `compute_placement`."""

    def __init__(self, shards: list[Shard], workers: list[Worker], policy: Policy) -> None:
        self.shards = shards
        self.workers = {worker.name: worker for worker in workers}
        self.policy = policy
        if len(self.workers) != len(workers):
            raise ValueError("two workers have one name")
        if len({shard.id for shard in shards}) != len(shards):
            raise ValueError("two shards have one id")
        for worker in workers:
            if not worker.capacity > 0:
                raise ValueError(f"{worker.name}: capacity {worker.capacity} is not above 0")
        self.live = {worker.name for worker in workers if worker.live}
        self.keepers = {worker.name for worker in workers if worker.may_keep}
        newest_format = max((shard.format for shard in shards), default=1)
        self.sites = {
            worker.name: Bin(worker.name, worker.capacity, min(worker.reads, newest_format))
            for worker in workers
            if worker.may_keep and not worker.cordoned
        }
        self._by_format: dict[int, tuple[set[str], set[str]]] = {}
        self.unreadable: list[ShardId] = []
        self.targets: dict[ShardId, str | None] = {}
        self.unassigned: list[tuple[_Urgency, float, Shard]] = []

    def _readers(self, journal_format: int) -> tuple[set[str], set[str]]:
        """The workers that may keep, and those that may get, a shard of a journal format."""
        found = self._by_format.get(journal_format)
        if found is None:
            keepers = {name for name in self.keepers if self.workers[name].reads >= journal_format}
            found = self._by_format[journal_format] = keepers, keepers & self.sites.keys()
        return found

    def settle_places(self) -> None:
        """Keep every shard at its pin, its target or its owner, the first of them that may have it."""
        paused = self.policy.mode == "Paused"
        pins, live = self.policy.pins, self.live
        for shard in self.shards:
            shard_id, owner, target, _, journal_format = shard
            weight = self._weight(shard)
            pin = pins.get(shard_id)
            keepers, sites = self._readers(journal_format)
            still = paused and owner in live
            pinned = pin in keepers and not still
            if pinned:
                place = pin
            elif target in sites:
                place = target
            elif owner in keepers or still:
                place = owner
            else:
                self.unassigned.append((self._urgency(owner)[0], -weight, shard))
                continue
            self.targets[shard_id] = place
            if place not in self.sites:
                continue
            site = self.sites[place]
            site.load += weight
            if pinned:
                site.bound += weight
            else:
                site.queue.append(HeldShard(weight, place != owner, shard_id, journal_format))

    def place_unassigned(self, balancer: Balancer) -> None:
        """Give every other shard to the worker that would then have the least; without a receiver, its live owner goes on."""
        self.unassigned.sort()
        for _, negative, shard in self.unassigned:
            site = balancer.roomiest(-negative, shard.format)
            if site is None:
                self.targets[shard.id] = shard.owner if shard.owner in self.live else None
                if self.sites:
                    self.unreadable.append(shard.id)
                continue
            site.take(HeldShard(-negative, coming=True, id=shard.id, format=shard.format))
            balancer.changed(site)
            self.targets[shard.id] = site.name

    def balance(self, balancer: Balancer) -> dict[ShardId, str]:
        """Move shards for balance, if the mode allows that and it is worth it; the reason of each, in order."""
        mode, strategy = self.policy.mode, self.policy.strategy
        if mode == "Paused" or (mode == "Manual" and not self.policy.rebalance_now):
            return {}
        if not balancer.unbalanced(
            strategy, self.policy.imbalance_threshold_percent, rebalance_now=self.policy.rebalance_now
        ):
            return {}
        before = {site.name: site.load for site in self.sites.values()}
        hot = {site.name: site.queue[-1].id for site in self.sites.values() if balancer.has_hot(site)}
        average = sum(before.values()) / sum(site.capacity for site in self.sites.values())
        reasons: dict[ShardId, str] = {}
        moved = balancer.balance(strategy)
        for shard_id, receiver in {id: name for id, name in moved.items() if name != self.targets[id]}.items():
            place = self.targets[shard_id]
            assert place is not None  # only what is at a site moves off it
            self.targets[shard_id] = receiver
            if strategy == "Count":
                fair = average * self.sites[place].capacity
                reasons[shard_id] = f"{place} holds {before[place]:.0f} of {round(fair, 1):g} shards"
            elif hot.get(place, shard_id) != shard_id:
                reasons[shard_id] = f"leaves shard {hot[place]} alone on {place}: hotter than a fair share"
            else:
                reasons[shard_id] = f"{place} carries {before[place]:.0f} commands/s, {receiver} {before[receiver]:.0f}"
        return reasons

    def in_order(self, balancing: Mapping[ShardId, str]) -> tuple[Move, ...]:
        """The shards that are not at their target, most urgent first; ``balancing`` has reasons, in the order of the moves."""
        position = {shard_id: number for number, shard_id in enumerate(balancing)}
        ranked: list[tuple[_Urgency, int, float, Move]] = []
        for shard in self.shards:
            target = self.targets[shard.id]
            source = shard.owner if shard.owner in self.live else None
            if target is None or target == source:
                continue
            urgency, reason = self._why(shard, target, balancing)
            order = position.get(shard.id, -1) if urgency is _Urgency.BALANCE else 0
            ranked.append((urgency, order, -self._weight(shard), Move(shard.id, source, target, reason)))
        ranked.sort()
        return tuple(move for _, _, _, move in ranked)

    def _why(self, shard: Shard, target: str, balancing: Mapping[ShardId, str]) -> tuple[_Urgency, str]:
        urgency, reason = self._urgency(shard.owner)
        pin = self.policy.pins.get(shard.id)
        if pin is not None and pin == target:
            if urgency is _Urgency.BALANCE:
                return _Urgency.PINNED, f"pinned to {pin}"
            return urgency, f"{reason}; pinned to {pin}"
        if urgency is _Urgency.BALANCE:
            reason = balancing.get(shard.id, f"on its way to {target}")
        if pin in self.keepers and self.workers[pin].reads < shard.format:
            reason = f"{reason} (pinned, but {pin} does not read journal format {shard.format})"
        elif pin is not None and pin not in self.keepers:
            _, trouble = self._urgency(pin)
            reason = f"{reason} (pinned, but {trouble})"
        return urgency, reason

    def _urgency(self, owner: str | None) -> tuple[_Urgency, str]:
        if owner is None:
            return _Urgency.UNOWNED, "no owner"
        worker = self.workers.get(owner)
        if worker is None or not worker.live:
            return _Urgency.UNOWNED, f"{owner} has left"
        if worker.leaving:
            return _Urgency.LEAVING, f"{owner} is leaving"
        if worker.draining:
            return _Urgency.DRAINING, f"{owner} is draining"
        return _Urgency.BALANCE, ""

    def _weight(self, shard: Shard) -> float:
        return 1.0 if self.policy.strategy == "Count" else max(shard.load, BASE_LOAD)


def next_moves(
    placement: Placement,
    owners: Mapping[ShardId, str | None],
    targets: Mapping[ShardId, str | None],
    max_concurrent_moves: int,
) -> list[Move]:
    """The moves to order now, most urgent first, so that never more than ``max_concurrent_moves`` are under way.

    A shard that no worker serves waits for nothing, and a shard that is under way may be sent elsewhere at once.  Orders
    beyond the limit, as a worker leaves them behind that handed its shards over by itself, are taken back before they
    are sent elsewhere: they wait for their turn with their owner.
    """
    without_source = {move.shard for move in placement.moves if move.source is None}
    under_way = {
        shard_id
        for shard_id, owner in owners.items()
        if owner is not None and targets.get(shard_id) not in (None, owner) and shard_id not in without_source
    }
    left = max_concurrent_moves - len(under_way)
    elsewhere = [
        move.shard for move in placement.moves if move.shard in under_way and targets[move.shard] != move.target
    ]
    too_many = set(elsewhere[max(0, len(elsewhere) + min(0, left)) :])
    now: list[Move] = []
    for move in placement.moves:
        if targets.get(move.shard) == move.target:
            continue
        if move.shard in too_many:
            assert move.source is not None  # what is under way has an owner that is alive
            now.append(Move(move.shard, move.source, move.source, "waits for its turn"))
            continue
        if move.source is not None and move.shard not in under_way:
            if left <= 0:
                continue
            left -= 1
        now.append(move)
    return now
