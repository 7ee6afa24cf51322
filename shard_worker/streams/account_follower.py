"""One client's stream of one account: every thread that the account can read, on one connection.

A follower is *behind* while a task of its own reads the journal for it, at the client's pace; the journal's tail keeps for it what
comes meanwhile.  It is *live* from the moment at which it has all that the tail has: then events are written to its connection
without a queue or a task.
"""

from typing import Final, Protocol

from shard_worker.domain.ids import AccountId
from shard_worker.journal.settled import Mark
from shard_worker.streams.account_access import AccountThreads
from shard_worker.streams.account_journal import TailEvent
from shard_worker.streams.account_position import AccountPosition, PositionCodec
from shard_worker.streams.follower import LARGE_BYTES, Follower, Host
from shard_worker.streams.framing import HEART_BEAT, position_frame
from shard_worker.streams.sink import SLOW_BYTES, Sink

_BACKLOG_EVENTS: Final = 20_000
_BACKLOG_BYTES: Final = 4 << 20
"""Events, and bytes of their payloads, that are kept for a follower that is behind; beyond, it reads the journal once more."""


class AccountHost(Host, Protocol):
    """The account streams of the worker, as their followers see them."""

    positions: PositionCodec

    @property
    def confirmed(self) -> tuple[Mark, int]:
        """The newest mark up to which the tail has handed out every event, and when it was taken, in epoch seconds."""
        ...

    def start_over(self, follower: "AccountFollower") -> None:
        """Have a follower that was live begin again: the history of the database has changed."""

    def forget(self, follower: "AccountFollower") -> None:
        """Forget a follower whose connection is closed."""


class Backlog:
    """Events that came since a follower is behind."""

    __slots__ = ("events", "lost", "size")

    def __init__(self) -> None:
        self.events: list[TailEvent] = []
        self.size = 0
        self.lost = False
        """Whether some were thrown away, or the history has changed: the follower starts over from a mark."""

    def add(self, event: TailEvent) -> None:
        """Keep one more."""
        if self.lost:
            return
        self.events.append(event)
        self.size += 0 if event.payload is None else len(event.payload)
        if len(self.events) > _BACKLOG_EVENTS or self.size > _BACKLOG_BYTES:
            self.lose()

    def lose(self) -> None:
        """Throw all away."""
        self.lost = True
        self.events = []
        self.size = 0


class AccountFollower(Follower):
    """A stream of one account."""

    __slots__ = ("backlog", "news", "tag", "threads")

    hub: AccountHost

    def __init__(self, hub: AccountHost, sink: Sink, account_id: AccountId) -> None:
        super().__init__(sink, account_id)
        self.hub = hub
        self.threads = AccountThreads(account_id)
        self.tag = hub.positions.tag(account_id)
        self.backlog: Backlog | None = None
        """The events since a mark, while the follower is behind."""
        self.news = 0
        """Positions that are still to be sent for events: the next may be from before the newest of them, the second is not."""

    def position(self, mark: Mark, made_at: int) -> bytes:
        """A mark as this account's position."""
        return self.hub.positions.write(self.tag, AccountPosition(mark.generation, mark.xid, made_at))

    def send(self, data: bytes) -> None:
        """Write to a live client, which may be slow: then its stream ends, and it resumes."""
        sink, size = self.sink, len(data)
        if (sink.paused and sink.unsent() > SLOW_BYTES) or (
            (sink.paused or size > LARGE_BYTES) and not sink.may_hold(size)
        ):
            self.drop()
        else:
            self.write(data)
            if sink.paused:
                sink.count_unsent()

    def confirm(self) -> None:
        """Send the newest confirmed position; only to a live follower, which has every event up to it."""
        self.news = max(0, self.news - 1)
        self.send(position_frame(self.position(*self.hub.confirmed)))

    def beat(self) -> None:
        """Send a heart-beat, with the newest confirmed position."""
        if self.over:
            return
        if self.live:
            self.send(HEART_BEAT)
            if not self.over:
                self.confirm()
        elif not self.sink.paused:
            self.write(HEART_BEAT)

    def lost(self) -> None:
        """The connection is closed: leave nothing behind."""
        self.over = True
        self.live = False
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.hub.forget(self)
