"""Catching up with an account's stream: from a position, or from now, to the journal's tail.

The tail keeps what comes from a mark on.  Up to that mark the threads of the account are found in the read model, and where it is
behind, in the journal; each thread whose newest event the position does not cover is read from the first such event on.  Events
that the read model has beyond the mark are shown with them, and not shown again when the tail brings them.
"""

import asyncio
import logging
import random
import time
from typing import Final, NamedTuple, Protocol

from shard_worker.contract import LiveEvent
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.journal.codec import UndecodableEvent, decode
from shard_worker.streams.access import NO_ROLES, PLAIN_TYPES, PastAccess, Roles, roles_after
from shard_worker.streams.account_access import ThreadEntry
from shard_worker.streams.account_follower import AccountFollower, Backlog
from shard_worker.streams.account_journal import AccountJournal, ReadThread
from shard_worker.streams.account_position import AccountPosition, PositionCodec
from shard_worker.streams.account_tail import JournalTail, Registration
from shard_worker.streams.framing import account_reset_frame, bare_frame, position_frame, thread_error_frame
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.metrics import StreamMetrics

log = logging.getLogger(__name__)

_OLDEST_S: Final = 86_400
"""Age of a position that is still continued."""
_PROJECTED_S: Final = 2.0
"""How long the read model may take to reach the mark before the journal is read instead."""
_STALLED_S: Final = 60.0
"""A client may take this time for one page; one that takes longer is gone."""
_PAUSE_S: Final = 0.2
_LOOK_S: Final = 0.02
_REPLAYED: Final = 256
"""Events of a backlog whose payloads are read at once."""


class CatchUpHost(Protocol):
    """The account streams of the worker, as the readers of histories see them."""

    history: StreamHistory
    journal: AccountJournal
    tail: JournalTail
    metrics: StreamMetrics
    positions: PositionCodec

    def poison(self) -> bytes:
        """The JSON of the problem of a thread that cannot be read."""
        ...

    def may_keep(self, threads: int) -> bool:
        """Whether the worker may keep this number of threads more for its streams."""
        ...

    def overloaded(self) -> bytes:
        """The ``error`` event of a stream for which there is no place."""
        ...


class _Start(NamedTuple):
    """Where a stream goes on: it lacks nothing from below the id, and of each shard nothing up to ``after``."""

    xid: int
    after: dict[int, int]


class _Changed(Exception):
    """The journal does not hold what it held: the next mark says why."""


async def open_account(hub: CatchUpHost, follower: AccountFollower, position: AccountPosition | None) -> None:
    """Bring a new stream to the tail, however long that takes."""
    registered = await hub.tail.register(follower)
    start: _Start | None = _Start(registered.mark.xid, registered.heads)
    if position is None:
        follower.write(position_frame(follower.position(registered.mark, registered.made_at)))
    elif _is_held(position, registered):
        start = _Start(position.xid, {})
        follower.write(position_frame(hub.positions.write(follower.tag, position)))
    else:
        start = None
    await _go_on(hub, follower, registered, start)


async def start_over(hub: CatchUpHost, follower: AccountFollower) -> None:
    """Bring a stream to the tail of another history, after a reset."""
    await _go_on(hub, follower, await hub.tail.register(follower), None)


def _is_held(position: AccountPosition, registered: Registration) -> bool:
    """Whether a position can be continued without a gap."""
    mark = registered.mark
    age_s = time.time() - position.made_at
    return position.generation == mark.generation and position.xid <= mark.xmax and age_s <= _OLDEST_S


async def _reset(hub: CatchUpHost, follower: AccountFollower, registered: Registration) -> _Start:
    """Have the client list its threads again: any of them may have lost events.  Raises `CONNECTION_ERRORS`.

    The list may be of a read model that is behind the mark: the stream goes on where the tables of now end, so that what a later list
    lacks comes after the reset.
    """
    # After the mark: what the tables have from below it is in every list that the client reads from here on.
    missing = await hub.journal.unprojected()
    xid = registered.mark.xid if missing is None else min(registered.mark.xid, missing)
    position = AccountPosition(registered.mark.generation, xid, registered.made_at)
    follower.threads.entries.clear()
    follower.write(account_reset_frame(hub.positions.write(follower.tag, position)))
    # The tables may lack events up to the heads also where the mark is below them: a long transaction holds it back.
    return _Start(xid, registered.heads if missing is None else {})


async def _go_on(hub: CatchUpHost, follower: AccountFollower, registered: Registration, start: _Start | None) -> None:
    """Catch up, from mark to mark, until the tail has nothing that the client has not; without a ``start`` after a reset."""
    while not follower.over:
        try:
            if start is None:
                start = await _reset(hub, follower, registered)
            if await _catch_up(hub, follower, registered, start):
                start = _Start(registered.mark.xid, registered.heads)
                if await _replay(hub, follower, registered.backlog):
                    follower.confirm()
                    follower.news = 2  # the mark of now may be from before the last that was shown
                    return
        except (_Changed, UndecodableEvent, *CONNECTION_ERRORS) as error:
            log.warning("account's stream failed to read; trying again", extra={"cause": repr(error)})
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
        before, registered = registered, await hub.tail.register(follower)
        if registered.mark.generation != before.mark.generation:
            start = None


async def _catch_up(hub: CatchUpHost, follower: AccountFollower, registered: Registration, start: _Start) -> bool:
    """Write what the client lacks up to the registration's heads, and know the threads; False when the stream is over.

    Raises `UndecodableEvent` where the read model is behind, and an event that it has still to stop at cannot be read.
    """
    await _projected(hub.journal, registered.heads)
    threads = await hub.journal.threads(follower.account_id, registered.heads)
    if not hub.may_keep(len(threads)):
        follower.end(hub.overloaded())
        return False
    entries = follower.threads.entries
    for number, thread in enumerate(threads):
        if number % 256 == 255:
            await asyncio.sleep(0)
        if thread.poisoned:
            if thread.roles.reader and thread.uuid not in entries:
                follower.write(thread_error_frame(thread.thread_id, hub.poison()))
            entries[thread.uuid] = ThreadEntry(NO_ROLES, thread.sequence_nr)
            continue
        known = entries.get(thread.uuid)
        if known is not None and known.since >= thread.sequence_nr:
            continue
        roles = NO_ROLES if thread.destroyed else thread.roles
        if thread.xid >= start.xid:
            try:
                if not await _show_thread(hub, follower, thread, start, known):
                    return False
            except UndecodableEvent as error:
                log.warning(
                    "stream failed to read an event", extra={"thread_id": thread.thread_id, "cause": repr(error)}
                )
                if not await write_page(follower, thread_error_frame(thread.thread_id, hub.poison())):
                    return False
                roles = NO_ROLES
        if roles.reader or thread.xid >= registered.mark.xid:
            entries[thread.uuid] = ThreadEntry(roles, thread.sequence_nr)
        else:
            entries.pop(thread.uuid, None)
    return True


async def _projected(journal: AccountJournal, heads: dict[int, int]) -> None:
    """Return when the read model has these heads, or after a time: then the journal is read where it is behind."""
    loop = asyncio.get_running_loop()
    deadline, pause_s = loop.time() + _PROJECTED_S, _LOOK_S
    while True:
        offsets = await journal.offsets()
        if all(offsets.get(shard_id, 0) >= head for shard_id, head in heads.items()) or loop.time() >= deadline:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(_PAUSE_S, pause_s * 2)


async def _show_thread(
    hub: CatchUpHost, follower: AccountFollower, thread: ReadThread, start: _Start, known: ThreadEntry | None
) -> bool:
    """Write what the client lacks of one thread; False when the stream is over.  Raises `UndecodableEvent`."""
    first = await hub.journal.first_since(thread, start.xid, start.after.get(thread.shard_id, 0), thread.sequence_nr)
    if first is None:
        return True
    last = first - 1 if known is None else max(first - 1, known.since)
    thread_id, account_id = thread.thread_id, follower.account_id
    past = await hub.history.past_access(thread_id, account_id, PastAccess(thread.roles), (last, thread.sequence_nr))
    roles = past.roles
    while last < thread.sequence_nr:
        page = await hub.history.page(thread_id, last, None)
        if not page:
            raise _Changed(f"thread {thread_id} has no event {last + 1}")
        page = [each for each in page if each.sequence_nr <= thread.sequence_nr]
        data, roles = _visible(hub, follower, thread, page, roles)
        last = page[-1].sequence_nr
        if not await write_page(follower, data):
            return False
    return True


def _visible(
    hub: CatchUpHost, follower: AccountFollower, thread: ReadThread, page: list[LiveEvent], roles: Roles
) -> tuple[bytes, Roles]:
    """The frames of a page that the account may see, and its roles behind it."""
    shown: list[bytes] = []
    for event in page:
        before = roles
        if event.event_type not in PLAIN_TYPES:
            decoded = decode(event.event_type, event.event_version, event.payload)
            roles = roles_after(roles, follower.account_id, decoded)
        if before.reader or roles.reader:
            shown.append(bare_frame(thread.thread_id, event))
            hub.metrics.delivered += 1
            follower.news = 2
    return b"".join(shown), roles


async def _replay(hub: CatchUpHost, follower: AccountFollower, backlog: Backlog) -> bool:
    """Show what came to the tail meanwhile, and become live; False when some of that was lost."""
    tail = hub.tail
    while not follower.over:
        if tail.join(follower, backlog):
            return True
        if backlog.lost:
            return False
        events, backlog.events = backlog.events[:_REPLAYED], backlog.events[_REPLAYED:]
        entries = follower.threads.entries
        await hub.journal.read_payloads([each for each in events if not each.plain or each.uuid in entries])
        for event in events:
            if event.payload is None and event.uuid in entries:  # the account came to read it by one of these events
                await hub.journal.read_payloads([event])
            tail.show(follower, event, tail.change_for(event))
            entry = entries.get(event.uuid)
            if entry is not None:  # a backlog that is lost later must not bring the event again
                entries[event.uuid] = entry._replace(since=max(entry.since, event.sequence_nr))
            while follower.sink.paused and not follower.over:
                if not await follower.sink.drained(_STALLED_S):
                    follower.drop()
    return False


async def write_page(follower: AccountFollower, data: bytes) -> bool:
    """Write a page once the worker has place for it, and wait until the client has read; False when it does not."""
    sink = follower.sink
    while not follower.over and not sink.may_hold(len(data)):
        await asyncio.sleep(_PAUSE_S)
    if follower.over:
        return False
    follower.write(data)
    if sink.paused and not await sink.drained(_STALLED_S):
        follower.drop()
    return not follower.over
