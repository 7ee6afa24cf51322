"""Whether the workers' answers may be trusted now: pure.

The operator asks in the background, so an answer has an age.  An answer counts while three things hold: the worker that gave
it still answers, or has been silent for less than `SILENCE_S`; the worker reports that it has its database; and between the
answers of that worker the heartbeats of the cluster advanced.  Times are by the operator's clock, and a worker's own clock
is only used for the difference of two of its instants.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from shard_worker.contract_internal import (
    DATABASE_SILENCE_S,
    DatabaseFault,
    DatabaseReport,
    DatabaseState,
    HealthCounters,
    OwnershipDigest,
    OwnershipResponse,
    RebuildProgress,
    WorkerState,
)
from shard_worker.domain.ids import ShardId

SILENCE_S: Final = 5.0
"""Time for which the last answer of a worker that does not answer any more counts: one lost packet changes no status."""
EVIDENCE_S: Final = 7.0
"""Maximum age of the newest answer while the owners are known: longer than the pause of the worker that is asked often, its
time-out, and that of the worker that takes its place."""
AGE_MOST_S: Final = 30.0
"""Maximum age of what a worker says of itself; longer than the pause at rest of a worker that is asked rarely."""
ACT_WITHIN_S: Final = 1.0
"""Maximum age of the answer on which a worker is removed or restarted; longer than the pause while something is to be done."""

_NEVER: Final = float("-inf")


class Reading(NamedTuple):
    """The last answer of one worker, without workers and shards."""

    sent_at: float
    """When the worker was asked."""
    plan_version: int
    epochs: int
    beats: int
    digest: str
    """Of workers and shards; empty for a worker of an earlier release, or one that knows of no shard yet."""
    member: bool
    serving: frozenset[ShardId]
    excess_privileges: tuple[str, ...] = ()
    database: DatabaseReport | None = None
    """None for a worker of an earlier release."""
    advanced_at: float = _NEVER
    """When the worker was asked for the answer that first showed these beats; minus infinity while nothing shows that they
    advance."""
    failing_since: float | None = None
    """When the first question was sent that the worker did not answer; None while it answers."""
    rebuild: RebuildProgress | None = None
    """The rebuild of the read model that is under way."""
    secrets: tuple[str, ...] = ()
    """Fingerprints of the values of the cluster's secret that the worker holds."""
    claimed_by_other: str | None = None
    """Why the database does not belong to the worker's cluster any more: the answer is then about another one."""
    health: HealthCounters | None = None
    """The counters of what went wrong in the worker; None for a worker of an earlier release."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Of two answers the one of the greater order was read later: plan version, epochs and beats only grow."""
        return self.plan_version, self.epochs, self.beats


class Outage(NamedTuple):
    """The database as the workers that answer report it, none of which has it."""

    reason: str
    """A `DatabaseFault`, as text; an unknown one of a later release is shown as it is."""
    message: str
    since: float
    """When the operator first knew, by its own clock."""


class Silence(NamedTuple):
    """A worker of a ready pod without an answer that counts."""

    since: float
    """When the first question was sent that it did not answer so, by the operator's clock."""
    fault: str
    """The fault of its answers; empty where there are none."""


class Verdict(NamedTuple):
    """The worth of the answers of a cluster's workers."""

    known: bool
    """The owners of the shards are known."""
    outage: Outage | None
    """Set while they are unknown because no worker that answers has its database."""
    read_at: float
    """When the newest answer that counts was asked for; minus infinity without one."""

    def may_act(self, now: float) -> bool:
        """Whether the answer is new enough to remove or restart a worker."""
        return self.known and now - self.read_at <= ACT_WITHIN_S


def reading_of_digest(answer: OwnershipDigest, sent_at: float, before: Reading | None) -> Reading:
    """The reading of a digest, after the one ``before`` of the same process."""
    return Reading(
        sent_at,
        answer.plan_version,
        answer.epochs,
        answer.beats,
        answer.digest,
        answer.member,
        frozenset(answer.serving),
        answer.excess_privileges,
        answer.database,
        _advanced_at(answer.beats, answer.database, sent_at, before),
        rebuild=answer.rebuild,
        secrets=answer.secrets,
        claimed_by_other=answer.claimed_by_other,
        health=answer.health,
    )


def reading_of_ownership(name: str, answer: OwnershipResponse, sent_at: float, before: Reading | None) -> Reading:
    """The same of a whole answer, for a worker whose release has no digest."""
    beats = sum(worker.beat for worker in answer.workers)
    own = answer.worker(name)
    return Reading(
        sent_at,
        answer.plan_version,
        sum(shard.epoch for shard in answer.shards),
        beats,
        answer.digest,
        own is not None and own.state is not WorkerState.FENCED,
        frozenset(answer.serving),
        answer.excess_privileges,
        answer.database,
        _advanced_at(beats, answer.database, sent_at, before),
        rebuild=answer.rebuild,
        secrets=answer.secrets,
        claimed_by_other=answer.claimed_by_other,
        health=answer.health,
    )


def counts(reading: Reading, now: float) -> bool:
    """Whether an answer may be believed now."""
    return _answers(reading, now) and not _without_database(reading) and reading.claimed_by_other is None


def supersedes(reading: Reading, kept: Reading, confirmed_at: float) -> bool:
    """Whether a reading of other workers and shards is newer than the ``kept`` one, which was last seen at ``confirmed_at``.

    Version, epochs and beats only grow, but after a fail-over or a restore they may have been lower: what no worker shows
    any more for longer than a worker's own reading is old gives way.
    """
    return reading.order > kept.order or reading.sent_at - confirmed_at > DATABASE_SILENCE_S


def judge(readings: Iterable[Reading], now: float, before: Outage | None) -> Verdict:
    """The worth of the answers now; ``before`` is the outage of the verdict before, whose time of beginning is kept."""
    known = list(readings)
    good = [reading.sent_at for reading in known if counts(reading, now) and now - reading.sent_at <= EVIDENCE_S]
    if good:
        return Verdict(True, None, max(good))
    silent = [
        reading
        for reading in known
        if _answers(reading, now) and _without_database(reading) and reading.claimed_by_other is None
    ]
    # A first answer of an earlier release shows nothing yet, and a process that is no member has not reported yet.
    silent = [reading for reading in silent if reading.member and (reading.database or reading.advanced_at > _NEVER)]
    if not silent:
        return Verdict(False, None, _NEVER)
    reason, message = max((_fault(reading) for reading in silent), key=_specific)
    return Verdict(False, Outage(reason, message, now if before is None else before.since), _NEVER)


def serving_of(readings: Mapping[str, Reading], now: float) -> dict[str, frozenset[ShardId]]:
    """The shards that each member says it serves; a worker that fell silent says nothing."""
    return {
        name: reading.serving
        for name, reading in readings.items()
        if reading.member and _answers(reading, now) and reading.claimed_by_other is None
    }


def _advanced_at(beats: int, database: DatabaseReport | None, sent_at: float, before: Reading | None) -> float:
    if before is None:
        # The worker's own report is evidence at once; without one the next answer shows whether the beats advance.
        return sent_at if database is not None and database.state is DatabaseState.CONNECTED else _NEVER
    return sent_at if beats != before.beats else before.advanced_at


def _answers(reading: Reading, now: float) -> bool:
    if reading.failing_since is not None and now - reading.failing_since >= SILENCE_S:
        return False
    return now - reading.sent_at <= AGE_MOST_S


def _without_database(reading: Reading) -> bool:
    if reading.database is not None and reading.database.state is not DatabaseState.CONNECTED:
        return True
    return reading.sent_at - reading.advanced_at > DATABASE_SILENCE_S


def _fault(reading: Reading) -> tuple[str, str]:
    if reading.database is not None and reading.database.reason is not None:
        return reading.database.reason, reading.database.message
    return DatabaseFault.UNREACHABLE.value, "no worker's heartbeat is acknowledged"


def _specific(fault: tuple[str, str]) -> tuple[bool, str, str]:
    """A refused login says more than a time-out."""
    return fault[0] != DatabaseFault.UNREACHABLE.value, *fault
