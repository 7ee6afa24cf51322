"""Where a stream begins, and whether its account may have it.

The thread's owner says which roles the account has now, and which event is the newest; the journal says which roles it
had at the position that the client gave, and whether the history still holds that position.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from msgspec import Struct

from shard_worker.contract import (
    NO_STREAMS,
    Answer,
    ReadAccess,
    StreamRequest,
    ThreadAccess,
    Unavailable,
    UnavailableCode,
)
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.decide import DESTROYED, NOT_FOUND
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.domain.refusals import Refusal
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.streams.access import NO_ROLES, PastAccess, Roles
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.position import ThreadPosition

log = logging.getLogger(__name__)

POISONED: Final = Unavailable(
    UnavailableCode.THREAD_POISONED, "this thread's history cannot be read by this release", retry_after_s=30.0
)
_ASK_S: Final = 5.0
_PAUSE_S: Final = 0.25

Ask = Callable[[StreamRequest, float], Awaitable[Answer]]
"""Ask the owner of a thread, wherever it is, within a number of seconds; see `shard_worker.actors.region`."""


class StreamStart(Struct, frozen=True, gc=False):
    """A stream may begin: after the event ``last``, with these roles as of that event."""

    last: int
    epoch: int | None
    roles: Roles
    reset: bool = False
    """Whether the client's position is not in the history; ``last`` is then the newest event."""
    ends: bool = False
    """Whether nothing can follow."""


class StreamOver(NamedTuple):
    """The client has everything: its position is that of the thread's end."""


Opening = StreamStart | StreamOver | Refusal | Unavailable
"""The outcome of a request for a stream; `Unavailable` only for a history that cannot be read."""


class StreamOpener:
    """Finds out where streams begin; waits for as long as neither the owner nor the database can say."""

    def __init__(self, ask: Ask, history: StreamHistory) -> None:
        self._ask = ask
        self._history = history

    async def open(self, thread_id: ThreadId, account_id: AccountId, position: ThreadPosition | None) -> Opening:
        """Where the stream begins; without a position, now."""
        while True:
            answer = await self._ask(ReadAccess(thread_id, account_id), _ASK_S)
            try:
                if answer == NO_STREAMS:
                    answer = await self._access_by_journal(thread_id, account_id)
                if isinstance(answer, Refusal):
                    return NOT_FOUND
                if isinstance(answer, ThreadAccess):
                    return await self._begin(thread_id, account_id, position, answer)
            except UndecodableEvent as error:
                log.warning("stream failed to read access", extra={"thread_id": thread_id, "cause": repr(error)})
                return POISONED
            except CONNECTION_ERRORS as error:
                log.warning("stream failed to read access", extra={"thread_id": thread_id, "cause": repr(error)})
            if isinstance(answer, Unavailable) and answer.code is UnavailableCode.THREAD_POISONED:
                return POISONED
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load

    async def _begin(
        self, thread_id: ThreadId, account_id: AccountId, position: ThreadPosition | None, now: ThreadAccess
    ) -> Opening:
        roles = Roles(now.administrator, now.member)
        if position is None:
            if not roles.reader:
                return NOT_FOUND
            return DESTROYED if now.destroyed else StreamStart(now.sequence_nr, now.epoch, roles)
        last = position.sequence_nr
        held = await self._epoch_held(thread_id, position, now)
        if held is None:
            if not roles.reader:
                return NOT_FOUND
            return StreamStart(now.sequence_nr, now.epoch, roles, reset=True, ends=now.destroyed)
        if last == now.sequence_nr:
            if not roles.reader:
                return NOT_FOUND
            return StreamOver() if now.destroyed else StreamStart(last, held, roles)
        if last == 0 and roles.reader:  # an account that may read now was let in by an event
            return StreamStart(0, held, NO_ROLES)
        past = await self._history.past_access(thread_id, account_id, PastAccess(roles), (last, now.sequence_nr))
        if not past.roles.reader and not past.let_in:
            return NOT_FOUND
        return StreamStart(last, held, past.roles)

    async def _epoch_held(self, thread_id: ThreadId, position: ThreadPosition, now: ThreadAccess) -> int | None:
        """The epoch of the event at a position, 0 at the beginning; None when the history does not hold it."""
        last, epoch = position
        if last == 0:
            return 0
        if last > now.sequence_nr:
            return None
        held = now.epoch if last == now.sequence_nr else await self._history.epoch(thread_id, last)
        return held if epoch is None or epoch == held else None

    async def _access_by_journal(self, thread_id: ThreadId, account_id: AccountId) -> ThreadAccess | Refusal:
        """The owner is of an earlier release: fold the account's roles from the whole history."""
        head = await self._history.head(thread_id)
        if head.sequence_nr == 0:
            return NOT_FOUND
        roles, destroyed = await self._history.present_access(thread_id, account_id, head.sequence_nr)
        return ThreadAccess(roles.administrator, roles.member, destroyed, head.sequence_nr, head.epoch)
