"""How long to wait before an attempt is made again, without clocks and chance."""

import re
from typing import Final

FIRST_S: Final = 0.05
MOST_S: Final = 5.0
"""Longest step; a `Retry-After` that is longer is obeyed all the same."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


def wait_s(failures: int, floor_s: float | None, chance: float) -> float:
    """Seconds to wait after this number of failures in a row (at least 1); ``chance`` is a random number of 0 to 1.

    The server's floor is never cut short: chance only adds, at most one step.
    """
    step = min(MOST_S, FIRST_S * 2.0 ** min(failures - 1, 30))
    return max(step, floor_s or 0.0) + chance * step


def retry_after_s(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None for another form, which the server does not send."""
    return float(header) if header is not None and _SECONDS.fullmatch(header) else None
