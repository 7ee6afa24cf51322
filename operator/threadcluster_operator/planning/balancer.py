"""The evening out of loads over bins: which shard moves from which worker to which, best move first.

Balance is one greedy rule for both strategies: each step takes from the worker with the most, by capacity, the shard
that evens it out best with the worker with the least.  A count is a load of 1 for each shard.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from threadcluster_operator.api import Strategy

_BEGIN: Final[Mapping[Strategy, float]] = {"Count": 1e-9, "Load": 0.12}
"""Balancing begins for a move that leaves its receiver this part below where its source was."""
_GO_ON: Final[Mapping[Strategy, float]] = {"Count": 1e-9, "Load": 0.02}
"""Once begun, it goes on while there is a move that gains this part.

Loads that wobble by 5 % turn a gain of 2 % into at most 1 - 0.98 * 0.95 / 1.05 = 11.4 %, which begins nothing.
"""

_HARDLY_ANYTHING: Final = 0.5
"""A worker with less than this part of its share gets more whatever the threshold: it is new, or its filling was
interrupted, and where there are many others none of them is far above its own share for that."""


class HeldShard(NamedTuple):
    """A shard that may leave the site where it is."""

    load: float
    coming: bool
    """It is not there yet: to send it elsewhere costs no move."""
    id: ShardId
    format: int = 1


class Bin:
    """A worker that may get shards, filled in thought."""

    __slots__ = ("bound", "capacity", "load", "name", "queue", "reads")

    def __init__(self, name: str, capacity: float, reads: int) -> None:
        self.name = name
        self.capacity = capacity
        self.reads = reads
        """The newest journal format that it reads, of the formats that there are: bins are alike where all read all."""
        self.load = 0.0
        self.bound = 0.0
        """The part of its load that is pinned here."""
        self.queue: list[HeldShard] = []
        """The shards that may leave; from `Balancer` on sorted: lightest first, of equals last those still on their way here."""

    @property
    def level(self) -> float:
        """Load by capacity."""
        return self.load / self.capacity

    @property
    def floor(self) -> float:
        """The level that no move can lower: its pins, or its heaviest shard."""
        return max(self.bound, self.queue[-1].load if self.queue else 0.0) / self.capacity

    def take(self, held: HeldShard) -> None:
        """Add a shard that may leave again, in its place."""
        self.load += held.load
        insort(self.queue, held)

    def give(self, index: int) -> HeldShard:
        """Take the shard at a place of the queue away."""
        held = self.queue.pop(index)
        self.load -= held.load
        return held


class _Step(NamedTuple):
    """A move in thought; the least is the best one."""

    level: float
    """Of the higher one of the two, afterwards."""
    receiver: str
    place: int
    """Of the shard in the source's queue."""


class Balancer:
    """All sites, and at hand the one with the least load of each capacity."""

    def __init__(self, sites: Mapping[str, Bin]) -> None:
        self.sites = sites
        self._least: dict[tuple[float, int], list[tuple[float, str]]] = {}
        for site in sites.values():
            site.queue.sort()
            self._least.setdefault((site.capacity, site.reads), []).append((site.load, site.name))
        for heap in self._least.values():
            heapify(heap)
        self.fair = 0.0
        """The level of all without what no move can lower, where that is above it."""

    def settle_fair(self) -> None:
        """Work out `fair`, from the sites as they are."""
        load = sum(site.load for site in self.sites.values())
        capacity = sum(site.capacity for site in self.sites.values())
        floors = sorted(((site.floor, site.name) for site in self.sites.values()), reverse=True)
        for floor, name in floors[:-1]:
            if floor <= load / capacity:
                break
            load -= floor * self.sites[name].capacity
            capacity -= self.sites[name].capacity
        self.fair = load / capacity if self.sites else 0.0

    def imbalance_percent(self, strategy: Strategy) -> float:
        """How far the highest site is above the fair level, of those sites that balancing would begin to move off.

        The figure is the one that `unbalanced` compares with the threshold.  A surplus that no move would lower is no
        imbalance: 5, 4 and 4 shards on three workers are balanced.
        """
        gain = _BEGIN[strategy]
        movable = (site.level for site in self.sites.values() if self.best_step(site, gain) is not None)
        return max(0.0, (max(movable, default=0.0) / self.fair - 1.0) * 100.0) if self.fair > 0 else 0.0

    def has_hot(self, site: Bin) -> bool:
        """Its heaviest shard alone is more than a fair share, and no pin keeps others beside it."""
        return bool(site.queue) and not site.bound and site.queue[-1].load / site.capacity > self.fair

    def changed(self, site: Bin) -> None:
        """A site's load is another one."""
        heappush(self._least[site.capacity, site.reads], (site.load, site.name))

    def _receivers(self) -> Iterator[Bin]:
        for heap in self._least.values():
            while heap[0][0] != self.sites[heap[0][1]].load:
                heappop(heap)
            yield self.sites[heap[0][1]]

    def roomiest(self, weight: float, journal_format: int) -> Bin | None:
        """The site that would be lowest with this much more, among those that read a journal format."""
        readers = [site for site in self._receivers() if site.reads >= journal_format]
        return min(readers, key=lambda site: ((site.load + weight) / site.capacity, site.name), default=None)

    def unbalanced(self, strategy: Strategy, threshold_percent: float, *, rebalance_now: bool) -> bool:
        """There is a move to begin with: off a worker too far above its share, or to one that has hardly anything."""
        tolerable = self.fair * (1.0 + threshold_percent / 100.0)
        for site in self.sites.values():
            step = self.best_step(site, _BEGIN[strategy])
            if step is not None and (
                rebalance_now
                or site.level > tolerable
                or self.sites[step.receiver].level < _HARDLY_ANYTHING * self.fair
            ):
                return True
        return False

    def best_step(self, source: Bin, gain: float) -> _Step | None:
        """The move off a site that evens it out best, with at least this gain.

        A shard hotter than a fair share is left where it is, unless for a greater worker: the others go.
        """
        if not source.queue or not self._may_gain(source, gain):
            return None
        hot = self.has_hot(source)
        free = len(source.queue) - hot
        steps = [step for site in self._receivers() for step in _steps(source, site, 0, free, gain)]
        if not steps and hot:
            steps = [
                step
                for site in self._receivers()
                if site.capacity > source.capacity
                for step in _steps(source, site, free, free + 1, gain)
            ]
        return min(steps, default=None)

    def _may_gain(self, source: Bin, gain: float) -> bool:
        lightest = source.queue[0].load
        limit = source.level * (1.0 - gain)
        return any((site.load + lightest) / site.capacity < limit for site in self._receivers())

    def balance(self, strategy: Strategy) -> dict[ShardId, str]:
        """Even the sites out; where the shards that moved have come to, in the order of the moves."""
        gain = _GO_ON[strategy]
        moved: dict[ShardId, str] = {}
        moving = True
        while moving:  # a second time only where capacities differ: a site may become the better receiver late
            moving = False
            highest = [(-site.level, site.name) for site in self.sites.values()]
            heapify(highest)
            while highest:
                level, name = heappop(highest)
                source = self.sites[name]
                if -level != source.level:
                    continue
                step = self.best_step(source, gain)
                if step is None:
                    continue
                receiver = self.sites[step.receiver]
                held = source.give(step.place)
                receiver.take(held._replace(coming=True))
                moved[held.id] = receiver.name
                moving = True
                for site in (source, receiver):
                    self.changed(site)
                    heappush(highest, (-site.level, site.name))
        return moved


def _steps(source: Bin, receiver: Bin, begin: int, end: int, gain: float) -> Iterator[_Step]:
    """Of the shards at these places of the queue, the two nearest to what would level both sites."""
    limit = source.level * (1.0 - gain)
    queue = source.queue
    places: Sequence[int] = range(begin, end)
    if receiver.reads < source.reads:
        places = [place for place in places if queue[place].format <= receiver.reads]
    if not places or (receiver.load + queue[places[0]].load) / receiver.capacity >= limit:
        return

    def load_at(place: int) -> float:
        return queue[place].load

    ideal = min(
        (source.load * receiver.capacity - receiver.load * source.capacity) / (source.capacity + receiver.capacity),
        limit * receiver.capacity - receiver.load,
    )
    # From the left: a shard that just reaches the limit is no move, so the next lighter one is tried beside it.
    heavier = bisect_left(places, ideal, key=load_at)
    nearest = [heavier - 1] if heavier else []
    if heavier < len(places):
        nearest.append(bisect_right(places, load_at(places[heavier]), heavier, key=load_at) - 1)
    for index in nearest:
        place = places[index]
        weight = queue[place].load
        after = (receiver.load + weight) / receiver.capacity
        if after < limit:
            yield _Step(max((source.load - weight) / source.capacity, after), receiver.name, place)
