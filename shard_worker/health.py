"""The worker's report on itself for planners: whether it has its database, how old its view is, and what went wrong so far."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from shard_worker.contract_internal import (
    DATABASE_SILENCE_S,
    DatabaseFault,
    DatabaseReport,
    DatabaseState,
    HealthCounters,
    ReadModelOverview,
)
from shard_worker.database.connection import DatabaseError
from shard_worker.ownership.lease import boottime


class Readings(NamedTuple):
    """The signs of life of the database, each by the clock `boottime`; minus infinity for one that there never was."""

    beat_at: float
    """When the last acknowledged heartbeat was sent."""
    unbroken_since: float
    """When the heartbeats began that have not stopped since."""
    view_at: float
    """When the last reading of ownership began."""


class Report(NamedTuple):
    """The part of an answer that says how far the answer can be trusted."""

    as_of: str | None
    answered_at: str
    database: DatabaseReport


def report_of(readings: Readings, fault: DatabaseError | None, *, now: float, wall: float) -> Report:
    """The report at the moment ``now`` by `boottime`, which is ``wall`` in seconds since the epoch.

    The worker is connected while both a heartbeat was acknowledged and ownership was read within `DATABASE_SILENCE_S`:
    a Postgres that answers reads and acknowledges no write, as one that lost its synchronous standby, serves no command.
    """

    def instant(at: float) -> str | None:
        # Only the distance to now is of `boottime`: a wall clock that was set meanwhile changes no age.
        return None if at == float("-inf") else text_of(wall - (now - at))

    last = min(readings.beat_at, readings.view_at)
    if now - last <= DATABASE_SILENCE_S:
        found = DatabaseReport(state=DatabaseState.CONNECTED, since=instant(readings.unbroken_since))
    elif fault is not None:
        found = DatabaseReport(
            state=DatabaseState.DISCONNECTED, since=instant(last), reason=fault.fault.value, message=str(fault)
        )
    else:
        what = "acknowledges no heartbeat" if readings.beat_at <= readings.view_at else "answers no reading"
        found = DatabaseReport(
            state=DatabaseState.DISCONNECTED,
            since=instant(last),
            reason=DatabaseFault.UNREACHABLE.value,
            message=f"Postgres {what}",
        )
    return Report(instant(readings.view_at), text_of(wall), found)


def text_of(wall: float) -> str:
    """An instant in ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class WorkerHealth:
    """A worker's report on itself in its answers to planners.

    ``readings`` gives the signs of life of the database, ``fault`` the error of the last attempt to open a session, if
    that failed, ``counters`` what went wrong so far, and ``secrets`` the fingerprints of the secret's values that are held
    now.  ``excess`` are the rights of the login to the journal that no worker needs.  ``read_model`` gives the read model as the
    worker read it last.
    """

    def __init__(
        self,
        readings: Callable[[], Readings],
        fault: Callable[[], DatabaseError | None],
        counters: Callable[[], HealthCounters],
        *,
        secrets: Callable[[], Sequence[str]],
        excess: Sequence[str],
        read_model: Callable[[], ReadModelOverview],
    ) -> None:
        self._readings = readings
        self._fault = fault
        self.counters = counters
        self.secrets = secrets
        self.excess = excess
        self.read_model = read_model

    def report(self) -> Report:
        """How far an answer of this moment can be trusted."""
        return report_of(self._readings(), self._fault(), now=boottime(), wall=time.time())
