"""Capacity: how much one port holds for its clients, in connections, bytes received and bytes not yet read.

Over a bound the port first drops connections that wait for their own client, the longest waiting first: an idle one, one
whose request stopped coming, one whose client does not read.  A client that is served within the usual times is never
among them.  Only when no connection waits for its client is the newcomer answered 503 ``overloaded``.
"""

import heapq
import logging
from dataclasses import dataclass
from typing import Final, Protocol

from shard_worker.gateway.http.problems import Problem, ProblemCode

_LOG: Final = logging.getLogger(__name__)
_LOG_EVERY_S: Final = 60.0
"""Minimum time between log lines about dropped connections, each with their number: a flood must not fill the log."""
_PART: Final = 64
"""One search among all connections frees this part of a bound: the search costs a millisecond, and a flood many."""
_PRESENT_PART: Final = 4
"""At most this part of the open connections is dropped for one newcomer: descriptors may run out long before the bound,
and a client that waits between two requests is then among the youngest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Maxima of one port."""

    connections: int = 4_096
    """Open connections; an idle one takes about 8 kB."""
    body_bytes: int = 64 << 20
    """Bytes of requests that are not answered yet; those that come whole in one small segment do not count."""
    answer_bytes: int = 64 << 20
    """Bytes of answers that wait in this process for their clients to read."""

    def __post_init__(self) -> None:
        for name in ("connections", "body_bytes", "answer_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")


class Client(Protocol):
    """A connection as `Capacity` sees it."""

    held: int
    """Bytes received for requests that are not answered yet."""
    unread: int
    """Bytes of answers that the client has not read."""

    @property
    def answered(self) -> bool:
        """Whether the client was answered a request on this connection."""
        ...

    @property
    def waits_since(self) -> float | None:
        """Since when, in loop time, it waits for its client; None while this worker is at work for it."""
        ...

    def drop(self, problem: Problem) -> None:
        """End it; the problem is answered if the protocol allows an answer now."""
        ...


_OVERLOADED: Final = "the worker holds as much for its clients as it may; try again"
RETRY_AFTER_S: Final = 1.0


def overloaded() -> Problem:
    """503 ``overloaded``."""
    return Problem(code=ProblemCode.OVERLOADED, detail=_OVERLOADED, retry_after_s=RETRY_AFTER_S, close=True)


class Capacity:
    """Counts what one port holds, and makes place when a bound is reached."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.clients: dict[Client, None] = {}
        """All open connections."""
        self.body_bytes = 0
        self.answer_bytes = 0
        self.dropped = {"connections": 0, "body_bytes": 0, "answer_bytes": 0}
        """Connections dropped, by the bound that was reached."""
        self.refused = {"connections": 0, "body_bytes": 0, "answer_bytes": 0}
        """Newcomers answered 503, by the bound that was reached."""
        self.exhausted = 0
        """How often the process had no file descriptor left for a new connection."""
        self._logged_at = float("-inf")

    def admit(self, client: Client, now: float) -> bool:
        """Count a new connection; False when there is no place for it."""
        if len(self.clients) >= self.bounds.connections:
            self.make_place(now)
        if len(self.clients) >= self.bounds.connections:
            self.refused["connections"] += 1
            return False
        self.clients[client] = None
        return True

    def make_place(self, now: float) -> None:
        """Drop the connections that have waited longest for their clients, a part of those that are open."""
        most = min(self.bounds.connections // _PART, len(self.clients) // _PRESENT_PART)
        for *_, client in heapq.nsmallest(max(1, most), self._waiting()):
            self.clients.pop(client, None)
            self._drop(client, "connections", now)

    def forget(self, client: Client) -> None:
        """The connection is gone, and what was held for it."""
        self.clients.pop(client, None)
        self.hold(client, 0)
        self.leave_unread(client, 0)

    def hold(self, client: Client, size: int) -> None:
        """``size`` bytes of requests are now held for this client."""
        self.body_bytes += size - client.held
        client.held = size

    def leave_unread(self, client: Client, size: int) -> None:
        """``size`` bytes of answers now wait for this client to read."""
        self.answer_bytes += size - client.unread
        client.unread = size

    def relieve_bodies(self, newcomer: Client, now: float) -> None:
        """Bring the bytes of requests back under their bound; the newcomer is refused when no client is waited for."""
        bound = self.bounds.body_bytes
        if self.body_bytes <= bound:
            return
        for *_, client in sorted(self._waiting("held")):
            self.hold(client, 0)
            self._drop(client, "body_bytes", now)
            if self.body_bytes <= bound - bound // _PART:
                return
        if self.body_bytes > bound:
            self.refused["body_bytes"] += 1
            self.hold(newcomer, 0)
            newcomer.drop(overloaded())

    def has_place_for_answer(self, size: int, now: float, *, patience_s: float = 0.0) -> bool:
        """Whether ``size`` more bytes of answers may wait; drops the longest waiting readers to make place.

        Readers that have waited less than ``patience_s`` stay.
        """
        bound = self.bounds.answer_bytes
        if self.answer_bytes + size <= bound:
            return True
        for _, since, _, client in sorted(self._waiting("unread")):
            if now - since < patience_s:
                continue
            self.leave_unread(client, 0)
            self._drop(client, "answer_bytes", now)
            if self.answer_bytes + size <= bound - bound // _PART:
                return True
        if self.answer_bytes + size <= bound:
            return True
        self.refused["answer_bytes"] += 1
        return False

    def _waiting(self, what: str = "") -> list[tuple[bool, float, int, Client]]:
        """The connections that wait for their clients, those to drop first before the others.

        A connection on which nothing was answered yet comes before every other: a flood is faster than a client that
        pauses between two requests.  ``what`` limits the list to connections that hold it.
        """
        return [
            (client.answered, since, id(client), client)
            for client in self.clients
            if (not what or getattr(client, what)) and (since := client.waits_since) is not None
        ]

    def _drop(self, client: Client, bound: str, now: float) -> None:
        self.dropped[bound] += 1
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            _LOG.warning("port dropped connections that wait for their clients", extra={"bound": bound, **self.dropped})
        client.drop(overloaded())
