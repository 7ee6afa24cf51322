"""A virtual user's line to the cluster: one connection at a time, to one of several addresses, every attempt counted.

The classification of answers follows the API's promise.  2xx is accepted.  A 503 or 504 whose code is not
``outcome-unknown``, and any 4xx, stored nothing.  Everything else leaves the outcome unknown: a 503 ``outcome-unknown``,
an unexpected 5xx, a connection that ends, a time-out.
"""

import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from tests.support.load.figures import Figures
from tests.support.load.target import Target
from tests.support.load.wire import Connection, Lost, Reply, request_bytes

Document = dict[str, Any]  # a JSON object whose fields each scenario checks for itself


class Outcome(Enum):
    """Outcome of one attempt."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """A definite no that a repetition would not change."""
    NOT_NOW = "not-now"
    """Nothing was stored; the same request may be sent again."""
    UNKNOWN = "unknown"
    NOT_SENT = "not-sent"


class Attempt(Struct, frozen=True):
    """The outcome of one attempt, and the answer when there was one."""

    outcome: Outcome
    status: int | None
    code: str
    document: Document
    retry_after_s: float = 0.05


_RETRYABLE = frozenset({408, 429, 503, 504})


def _parse(body: bytes) -> Document:
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def classify(reply: Reply) -> Attempt:
    """Classify a reply by its statement about storage."""
    document = _parse(reply.body)
    code = str(document.get("code", ""))
    if 200 <= reply.status < 300:
        outcome = Outcome.ACCEPTED
    elif code == "outcome-unknown" or (reply.status >= 500 and reply.status not in (503, 504)):
        outcome = Outcome.UNKNOWN
    elif reply.status in _RETRYABLE:
        outcome = Outcome.NOT_NOW
    else:
        outcome = Outcome.REFUSED
    return Attempt(outcome, reply.status, code, document)


class Client:
    """One virtual user.  After a failure the next attempt goes to the next address."""

    def __init__(self, targets: Sequence[Target], figures: Figures, *, first: int = 0, timeout_s: float = 10.0) -> None:
        if not targets:
            raise ValueError("targets: at least one is needed")
        self._targets = targets
        self._figures = figures
        self._at = first % len(targets)
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    async def send(
        self, operation: str, method: str, path: str, body: bytes | None = None, key: str | None = None
    ) -> Attempt:
        """Send once, and say what is known afterwards.  Never raises for what a server or a network does."""
        target = self._targets[self._at]
        request = request_bytes(method, path, target.authority, body, key)
        try:
            connection = await self._ready(target)
        except Lost as lost:
            self._figures.not_sent += 1
            self._leave()
            return Attempt(Outcome.NOT_SENT, None, str(lost), {})
        self._figures.send(operation)
        started = time.perf_counter()
        try:
            reply = await connection.ask(request, self._timeout_s)
        except Lost as lost:
            self._leave()
            if not lost.sent:
                self._figures.unsend(operation)
                return Attempt(Outcome.NOT_SENT, None, str(lost), {}, 0.01)
            self._figures.lost(operation, f"lost: {lost}")
            return Attempt(Outcome.UNKNOWN, None, str(lost), {})
        except BaseException:
            self._figures.lost(operation, "cancelled")
            raise
        latency_s = time.perf_counter() - started
        attempt = classify(reply)
        self._figures.answered(
            operation,
            f"{reply.status} {attempt.code}".strip(),
            latency_s,
            accepted=attempt.outcome is Outcome.ACCEPTED,
            unknown=attempt.outcome is Outcome.UNKNOWN,
        )
        if attempt.outcome in (Outcome.NOT_NOW, Outcome.UNKNOWN):
            self._leave()
        return attempt

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _ready(self, target: Target) -> Connection:
        if self._connection is None or not self._connection.usable:
            self._connection = await Connection.open(target, min(5.0, self._timeout_s))
        return self._connection

    def _leave(self) -> None:
        self.close()
        self._at = (self._at + 1) % len(self._targets)
