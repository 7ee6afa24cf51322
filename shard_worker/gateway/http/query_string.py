"""The bound on the parameters of a query string, which both ports check before they parse one."""

from typing import Final

from shard_worker.gateway.http.failures import Failure, FailureCode, of_parameter

PARAMETERS_MOST: Final = 32
"""Maximum number of parameters of one request, known or not: each costs time, and the longest target holds 4,000."""


def too_many_parameters(query: str) -> Failure | None:
    """The failure of a raw query string with more than `PARAMETERS_MOST` parameters, or None."""
    if query.count("&") < PARAMETERS_MOST:
        return None
    return of_parameter("query", FailureCode.TOO_COMPLEX, f"must have at most {PARAMETERS_MOST} parameters")
