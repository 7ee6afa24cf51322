"""Who should have which shard: a pure rule that the workers, the local platform and the operator share.

Balanced by count, deterministic, independent of the order of its inputs, and minimal: a shard moves only when its owner
is no candidate or has more than its share.  Going from n to n + 1 workers moves at most ⌈S / (n + 1)⌉ shards.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shard_worker.domain.ids import ShardId


class Candidate(NamedTuple):
    """A worker that may own shards.  One that leaves keeps none; a cordoned one keeps what it has and gets no more."""

    name: str
    leaving: bool = False
    cordoned: bool = False


def share(owners: Mapping[ShardId, str | None], workers: Iterable[Candidate]) -> dict[ShardId, str | None]:
    """The target of every shard in ``owners`` (its present owner, or None); None only without any receiver.

    Costs O(S log S + W log W).  Raises `ValueError` when two workers have one name.
    """
    workers = list(workers)
    if len({worker.name for worker in workers}) != len(workers):
        raise ValueError("two workers have one name")
    staying = {worker.name for worker in workers if not worker.leaving}
    open_to_more = sorted(worker.name for worker in workers if not worker.leaving and not worker.cordoned)
    held: dict[str, list[ShardId]] = {name: [] for name in staying}
    homeless: list[ShardId] = []
    for shard_id in sorted(owners):
        owner = owners[shard_id]
        if owner in held:
            held[owner].append(shard_id)
        else:
            homeless.append(shard_id)
    targets: dict[ShardId, str | None] = {
        shard_id: name for name in staying - set(open_to_more) for shard_id in held[name]
    }
    if not open_to_more:
        return targets | dict.fromkeys(homeless)
    quotas = _quotas({name: len(held[name]) for name in open_to_more}, len(owners) - len(targets))
    for name in open_to_more:
        quota = quotas[name]
        targets |= dict.fromkeys(held[name][:quota], name)
        homeless += held[name][quota:]
    homeless.sort()
    waiting = iter(homeless)
    for name in open_to_more:
        for _ in range(quotas[name] - len(held[name])):
            targets[next(waiting)] = name
    return targets


def _quotas(counts: Mapping[str, int], shards: int) -> dict[str, int]:
    """How many each gets; who has the most already gets the odd one, so that nothing moves for its sake."""
    least, odd = divmod(shards, len(counts))
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: least + (position < odd) for position, name in enumerate(order)}


def rendezvous(about: ShardId | str, workers: Iterable[str]) -> list[str]:
    """Workers in the order in which they may claim a shard that nobody was told to take, or fence a dead worker."""
    return sorted(workers, key=lambda name: hashlib.sha256(f"{about}:{name}".encode()).digest())


def plan_hash(targets: Mapping[ShardId, str | None]) -> str:
    """Tells one set of targets from another."""
    text = "\n".join(f"{shard_id}={targets[shard_id] or ''}" for shard_id in sorted(targets))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
