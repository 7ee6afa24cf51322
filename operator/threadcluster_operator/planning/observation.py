"""The observation that the planner uses, built from the workers' answers to `GET ownership`.

The newest answer counts for the whole cluster, and each worker's own answer for the shards that this worker serves.  A
frozen process still looks alive to its supervisor or its kubelet, and a worker's row in the database outlives the process:
a worker is alive here when it may be given a shard.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from shard_worker.contract_internal import DatabaseState, OwnershipResponse, RebuildProgress, WorkerState
from shard_worker.domain.ids import ShardId
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.planning.planner import ShardOwnership

Answers = Mapping[str, OwnershipResponse]
"""By the worker that gave the answer."""


_BEATS_S: Final = 15.0
"""How long a beat that advanced shows that its worker lives: longer than the pause between two readings of all workers, while nothing
changes.  A worker that dies is fenced by its peers, and that shows at once."""


class Heartbeats:
    """The workers of one cluster that live by their beats, whatever processes or pods a supervisor knows."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, float]] = {}
        """By worker: incarnation and beat, and when they were seen to change."""

    def advancing(self, answer: OwnershipResponse | None, now: float) -> frozenset[str]:
        """Those whose beat has changed lately.  The first look at a worker shows no change: its row may be an old one."""
        for entry in answer.workers if answer is not None else ():
            last = self._last.get(entry.name)
            if last is None or entry.state is WorkerState.FENCED:
                self._last[entry.name] = entry.incarnation, entry.beat, float("-inf")
            elif last[:2] != (entry.incarnation, entry.beat):
                self._last[entry.name] = entry.incarnation, entry.beat, now
        return frozenset(name for name, (_, _, at) in self._last.items() if now - at <= _BEATS_S)


def newest(answers: Iterable[OwnershipResponse]) -> OwnershipResponse | None:
    """The answer that was read last, leaving out answers of workers that know of no shard yet.

    Plan version, epochs and beats only grow.
    """
    return max((answer for answer in answers if answer.shards), key=_age, default=None)


def _age(answer: OwnershipResponse) -> tuple[int, int, int]:
    return (
        answer.plan_version,
        sum(shard.epoch for shard in answer.shards),
        sum(worker.beat for worker in answer.workers),
    )


def build_observation(
    answers: Answers,
    *,
    running: Set[str],
    starting: Set[str],
    emptying: Set[str],
    beating: Set[str] = frozenset(),
) -> ShardOwnership | None:
    """The observation, or None without an answer that knows of the shards: `observe` of the newest.

    A worker without its database answers from memory, and nothing may follow from the answer; the answer of a worker whose
    database has become another cluster's is about that cluster.
    """
    answers = {name: answer for name, answer in answers.items() if answer.claimed_by_other is None}
    found = newest(answer for answer in answers.values() if _has_database(answer))
    if found is None:
        return None
    return observe(
        found,
        {name: frozenset(answer.serving) for name, answer in answers.items() if is_member(name, answer)},
        {name: answer.excess_privileges for name, answer in answers.items()},
        [answer.rebuild for answer in answers.values()],
        running=running | beating,
        starting=starting,
        emptying=emptying,
    )


def observe(
    found: OwnershipResponse,
    serving: Mapping[str, frozenset[ShardId]],
    excess: Mapping[str, Sequence[str]],
    rebuilds: Iterable[RebuildProgress | None],
    *,
    running: Set[str],
    starting: Set[str],
    emptying: Set[str],
) -> ShardOwnership:
    """The observation of one answer, of what each member says it serves, of what each login may do besides, and of the rebuild
    of the read model that workers report.

    A worker that is ``starting`` is expected to become what it was, or more: its share waits for it.  A worker that is
    fenced, or not ``running``, by its process, its pod or its beats (`Heartbeats`), gets nothing, and its peers take its shards.
    """
    workers = {}
    for entry in found.workers:
        name = entry.name
        alive = name in running and entry.state is not WorkerState.FENCED
        workers[name] = Worker(
            name,
            live=alive or name in starting,
            leaving=alive and entry.leaving,
            cordoned=entry.cordoned,
            draining=entry.draining or name in emptying,
            reads=entry.reads_format,
        )
    return ShardOwnership(
        found.plan_version,
        {shard.id: shard.owner for shard in found.shards},
        {shard.id: shard.target for shard in found.shards},
        serving,
        workers,
        {shard.id: shard.load.commands_per_second for shard in found.shards},
        {name: rights for name, rights in excess.items() if rights},
        {shard.id: shard.format for shard in found.shards},
        # Workers read it seconds apart, and one of an earlier release does not say: the farthest counts.
        max(
            (each for each in rebuilds if each is not None),
            key=lambda rebuild: (rebuild.generation, rebuild.shards_done),
            default=None,
        ),
        {shard.id: shard.pin for shard in found.shards if shard.pin is not None},
    )


def _has_database(answer: OwnershipResponse) -> bool:
    """Whether the answering worker has its database; a worker of an earlier release does not say."""
    return answer.database is None or answer.database.state is DatabaseState.CONNECTED


def is_member(name: str, answer: OwnershipResponse | None) -> bool:
    """A worker reads the database only after it has registered there, so its own entry in its answer is its own."""
    entry = answer.worker(name) if answer is not None and answer.claimed_by_other is None else None
    return entry is not None and entry.state is not WorkerState.FENCED
