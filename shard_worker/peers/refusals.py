"""Connections that are refused before they proved anything: counted each, logged once a second."""

import asyncio
import logging
from collections import Counter
from enum import StrEnum
from typing import Final

log = logging.getLogger(__name__)

_LOG_EVERY_S: Final = 1.0
"""Minimum time between two log lines: a client that reaches the port must not choose how fast the log grows."""


class Refused(StrEnum):
    """Why a connection was refused; a metric's label, so the number of reasons is fixed."""

    SILENT = "silent"
    """It did not choose a protocol, or did not complete its handshake, in time."""
    HANDSHAKE = "handshake"
    """Its TLS handshake failed: no certificate, another authority's, or a name that is not this worker's."""
    FRAME = "frame"
    """Its first frame is none of this protocol's version."""
    CROWDED = "crowded"
    """It was the oldest of more unproven connections than are kept."""
    UNREAD = "unread"
    """It does not read its answers."""


class Refusals:
    """Counts and logs them; belongs to the running loop."""

    def __init__(self) -> None:
        self.counts: Counter[Refused] = Counter()
        self._unlogged = 0
        self._last: dict[str, object] = {}
        self._quiet = False

    def add(self, reason: Refused, cause: str, peer: object) -> None:
        """Count a connection, and log it now or within a second, with the last one's cause and address."""
        self.counts[reason] += 1
        self._unlogged += 1
        self._last = {"reason": reason.value, "cause": cause, "peer": peer}
        if not self._quiet:
            self._log()

    def _log(self) -> None:
        self._quiet = self._unlogged > 0
        if self._quiet:
            log.warning("port refused connections", extra={**self._last, "count": self._unlogged})
            self._unlogged = 0
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self._log)
