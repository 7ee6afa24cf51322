"""The assignment of shards to workers: the pure rule that the workers follow while no plan says otherwise.

Balanced by count, deterministic, independent of the order of its inputs, and minimal: a shard moves only when its owner
is no candidate or has more than its share.  Going from n to n + 1 workers moves at most ⌈S / (n + 1)⌉ shards.
"""

import hashlib
from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace
from operator import itemgetter
from typing import NamedTuple

from shard_worker.domain.ids import ShardId


class Candidate(NamedTuple):
    """A worker that may own shards.  One that leaves keeps none; a cordoned one keeps what it has and gets no more."""

    name: str
    leaving: bool = False
    cordoned: bool = False
    reads: int = 1
    """The newest journal format that it reads: it is no candidate for a shard of a newer one."""


def assign_shards(
    owners: Mapping[ShardId, str | None], workers: Iterable[Candidate], formats: Mapping[ShardId, int] | None = None
) -> dict[ShardId, str | None]:
    """The target of every shard in ``owners`` (its present owner, or None); None only without any receiver.

    ``formats`` has the journal format of each shard, 1 where it says nothing.  While some worker cannot read every
    shard, what has a place keeps it, and only the others are shared.

    Costs O(S log S + W log W).  Raises `ValueError` when two workers have one name.
    """
    workers = list(workers)
    if len({worker.name for worker in workers}) != len(workers):
        raise ValueError("two workers have one name")
    newest = max(formats.values(), default=1) if formats else 1
    if formats and any(worker.reads < newest for worker in workers):
        return _share_by_format(owners, workers, formats)
    staying = {worker.name for worker in workers if not worker.leaving}
    receivers = sorted(worker.name for worker in workers if not worker.leaving and not worker.cordoned)
    held: dict[str, list[ShardId]] = {name: [] for name in staying}
    unassigned: list[ShardId] = []
    for shard_id in sorted(owners):
        owner = owners[shard_id]
        if owner in held:
            held[owner].append(shard_id)
        else:
            unassigned.append(shard_id)
    targets: dict[ShardId, str | None] = {
        shard_id: name for name in staying - set(receivers) for shard_id in held[name]
    }
    if not receivers:
        return targets | dict.fromkeys(unassigned)
    quotas = _quotas({name: len(held[name]) for name in receivers}, len(owners) - len(targets))
    for name in receivers:
        quota = quotas[name]
        targets |= dict.fromkeys(held[name][:quota], name)
        unassigned += held[name][quota:]
    unassigned.sort()
    waiting = iter(unassigned)
    for name in receivers:
        for _ in range(quotas[name] - len(held[name])):
            targets[next(waiting)] = name
    return targets


def _share_by_format(
    owners: Mapping[ShardId, str | None], workers: Iterable[Candidate], formats: Mapping[ShardId, int]
) -> dict[ShardId, str | None]:
    """Every shard stays where it is read; the others, those of the newest format first, go to the least filled reader."""
    reads = {worker.name: worker.reads for worker in workers if not worker.leaving}
    counts = {worker.name: 0 for worker in workers if not worker.leaving and not worker.cordoned}
    targets: dict[ShardId, str | None] = {}
    unassigned: list[tuple[int, ShardId]] = []
    for shard_id in sorted(owners):
        owner, journal_format = owners[shard_id], formats.get(shard_id, 1)
        if owner is not None and reads.get(owner, 0) >= journal_format:
            targets[shard_id] = owner
            if owner in counts:
                counts[owner] += 1
        else:
            unassigned.append((-journal_format, shard_id))
    heaps: dict[int, list[tuple[int, str]]] = {}  # by the newest format that these workers read
    for name, count in counts.items():
        heaps.setdefault(reads[name], []).append((count, name))
    for heap in heaps.values():
        heapify(heap)
    for negative, shard_id in sorted(unassigned):
        readers = [heap for each, heap in heaps.items() if each >= -negative]
        least = min(readers, key=itemgetter(0), default=None)
        if least is None:
            targets[shard_id] = None
            continue
        count, name = least[0]
        heapreplace(least, (count + 1, name))
        targets[shard_id] = name
    return targets


def _quotas(counts: Mapping[str, int], shards: int) -> dict[str, int]:
    """How many each gets; who has the most already gets the odd one, so that nothing moves for its sake."""
    least, odd = divmod(shards, len(counts))
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: least + (position < odd) for position, name in enumerate(order)}


def rendezvous(about: ShardId | str, workers: Iterable[str]) -> list[str]:
    """Workers in the order in which they may claim a shard without a target, or fence a dead worker."""
    return sorted(workers, key=lambda name: hashlib.sha256(f"{about}:{name}".encode()).digest())
