"""The state of a cluster's database, as its workers report it."""

from collections.abc import Iterable
from typing import Any

from shard_worker.contract_internal import DatabaseState, OwnershipResponse


def database_report(answers: Iterable[OwnershipResponse]) -> dict[str, Any] | None:  # JSON
    """Connected when one worker is; else a report with the fault.  None while no worker says."""
    reports = [each.database for each in answers if each.database is not None]
    if not reports:
        return None
    report = next((each for each in reports if each.state is DatabaseState.CONNECTED), reports[0])
    return {"state": report.state.value, "reason": report.reason, "message": report.message}
