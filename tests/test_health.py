"""A worker's report on its database, by the signs of life that it had."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.contract_internal import DATABASE_SILENCE_S, DatabaseState
from shard_worker.database.connection import DatabaseAuthFailed, DatabaseTLSFailed, DatabaseUnreachable
from shard_worker.health import Readings, report_of, text_of

WALL = 1_777_636_800.0  # 2026-05-01T12:00:00Z
NEVER = -math.inf


def test_a_worker_with_beats_and_readings_is_connected() -> None:
    """Since its beats began; its view is as old as the last reading."""
    found = report_of(Readings(99.9, 40.0, 99.75), None, now=100.0, wall=WALL)
    assert found.database.state is DatabaseState.CONNECTED
    assert (found.database.since, found.database.reason) == ("2026-05-01T11:59:00.000Z", None)
    assert (found.as_of, found.answered_at) == ("2026-05-01T11:59:59.750Z", "2026-05-01T12:00:00.000Z")


@pytest.mark.parametrize(
    ("beat_at", "view_at", "says"),
    [(97.0, 99.9, "acknowledges no heartbeat"), (99.9, 97.0, "answers no reading"), (97.0, 97.0, "acknowledges no")],
    ids=["reads alone", "beats alone", "neither"],
)
def test_beats_without_readings_and_readings_without_beats_are_no_database(
    beat_at: float, view_at: float, says: str
) -> None:
    """A primary that lost its synchronous standby answers readings, and serves no command."""
    found = report_of(Readings(beat_at, 0.0, view_at), None, now=100.0, wall=WALL).database
    assert (found.state, found.reason) == (DatabaseState.DISCONNECTED, "DatabaseUnreachable")
    assert found.since == "2026-05-01T11:59:57.000Z"
    assert says in found.message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatabaseAuthFailed("the login is refused"), "DatabaseAuthFailed"),
        (DatabaseTLSFailed("the certificate is not believed"), "DatabaseTLSFailed"),
        (DatabaseUnreachable("no answer"), "DatabaseUnreachable"),
    ],
)
def test_the_reason_is_that_of_the_last_attempt(error: DatabaseAuthFailed, reason: str) -> None:
    """An attempt that failed beside sessions that live is none: the pool may be full for a moment."""
    found = report_of(Readings(97.0, 0.0, 97.0), error, now=100.0, wall=WALL).database
    assert (found.reason, found.message) == (reason, str(error))
    assert report_of(Readings(99.0, 0.0, 99.0), error, now=100.0, wall=WALL).database.reason is None


def test_before_the_first_beat_there_is_no_since() -> None:
    """Nor a time of a view that was never read."""
    found = report_of(Readings(NEVER, NEVER, NEVER), None, now=100.0, wall=WALL)
    assert (found.as_of, found.database.since) == (None, None)
    assert found.database.state is DatabaseState.DISCONNECTED
    found = report_of(Readings(NEVER, NEVER, 100.0), None, now=100.0, wall=WALL)
    assert found.as_of == text_of(WALL)
    assert found.database.state is DatabaseState.DISCONNECTED


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1e9))
def test_connected_is_both_within_the_bound(beat_age_s: float, view_age_s: float, now: float) -> None:
    """Whatever the clock shows."""
    found = report_of(Readings(now - beat_age_s, 0.0, now - view_age_s), None, now=now, wall=WALL)
    oldest = now - min(now - beat_age_s, now - view_age_s)
    assert (found.database.state is DatabaseState.CONNECTED) == (oldest <= DATABASE_SILENCE_S)
