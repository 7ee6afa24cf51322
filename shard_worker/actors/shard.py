"""One owned shard: its resident threads, its stream into the journal, and whether it serves.

A shard admits only while it serves.  While an append's outcome is unknown the shard holds new requests; while the shard
is being released it holds new requests and forwards them once it is gone.  Held requests were not admitted, so another
worker may always serve them.
"""

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum, auto
from typing import Final

from msgspec.structs import replace

from shard_worker.actors.context import ActorContext
from shard_worker.actors.live_taps import LiveTaps
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.pending import PendingRequest
from shard_worker.actors.queries import PendingTexts
from shard_worker.actors.thread_actor import OVERLOADED, Phase, ThreadActor
from shard_worker.contract import POISONED, Done, FollowThread
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.decide import message_ids_of
from shard_worker.domain.events import PostedMessage
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.journal.answer_size import PAGE_BYTES
from shard_worker.journal.append_queue import AppendQueueState, Row
from shard_worker.journal.appender import Appender
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.journal.loader import Poisoned, Recovered
from shard_worker.ownership.view import Load

log = logging.getLogger(__name__)

_RETRY_S: Final = 0.1
_HELD_MOST: Final = 10_000
_MEMORY_S: Final = 10.0
"""How long the averages of a shard's load remember."""
_HOT_S: Final = 30.0
"""A thread that was asked within this time is worth being read before the shard moves."""


class ShardState(Enum):
    """How a shard treats a request."""

    SERVING = auto()
    SUSPENDED = auto()
    RELEASING = auto()
    CLOSED = auto()


class Shard:
    """One owned shard.  Implements `shard_worker.journal.append_queue.AppendListener`, and `ActorHost` for its actors."""

    def __init__(
        self,
        shard_id: ShardId,
        epoch: int,
        head: int,
        *,
        env: ActorContext,
        appender: Appender,
        residents: LruPassivation[ThreadActor],
        on_lost: "Callable[[Shard], None]",
    ) -> None:
        self.shard_id = shard_id
        self.env = env
        self.state = ShardState.SERVING
        self.commands = 0
        self.measured = Load(0.0, 0.0)
        self.actors: dict[ThreadId, ThreadActor] = {}
        self._residents = residents
        self._on_lost = on_lost
        self._counted = (0, 0, 0.0)
        self._successor: tuple[str | None, int] = (None, epoch)
        self._held: deque[PendingRequest] = deque()
        self._tasks: dict[asyncio.Task[None], PendingRequest | None] = {}
        """Background tasks, each with the only request that it would answer."""
        self._reading: set[PendingRequest] = set()
        """Requests whose pages are read with others."""
        self._taps = LiveTaps(env.tap_memory)
        self.stream = appender.open(shard_id, epoch, head, self)

    @property
    def epoch(self) -> int:
        """The epoch this shard is owned at; an unknown outcome raises it."""
        return self.stream.epoch

    def handle(self, ask: PendingRequest, thread_id: ThreadId) -> None:
        """Decide an ask of one of this shard's threads, now or when it can be."""
        if self.state is not ShardState.SERVING:
            self.stash(ask)
            return
        if type(ask.request) is FollowThread:
            self._taps.follow(ask, self._residents.now())
            return
        self.commands += 1
        actor = self.actors.get(thread_id)
        if actor is None:
            if not self._residents.evict_one():
                ask.answer(OVERLOADED)
                return
            actor = ThreadActor(thread_id, self, env=self.env, stream=self.stream)
            self.actors[thread_id] = actor
            self._residents.add(actor)
            self.load(actor)
        else:
            self._residents.touch(actor)
        actor.handle(ask)

    def stash(self, ask: PendingRequest) -> None:
        """Stash a request that must not be decided now; nothing of it is stored."""
        held = self._held
        while held and held[0].done:
            held.popleft()
        if self.state is ShardState.CLOSED:  # a task or an actor may hold a reference after `close`
            ask.redirect(*self._successor)
        elif len(held) >= _HELD_MOST or not self.env.may_hold():
            ask.answer(OVERLOADED)
        else:
            ask.stash(self.env)
            held.append(ask)

    def retry_stashed(self) -> None:
        """Decide the stashed requests, if the shard serves now."""
        if self._held and self.state is ShardState.SERVING and self.env.memory_reads_allowed():
            # Swapped before the loop: `handle` may stash a request again, which must not extend the loop.
            held, self._held = self._held, deque()
            for ask in held:
                if not ask.done:
                    ask.unstash()
                    self.handle(ask, _thread_of(ask))

    def memory_reads_allowed(self) -> bool:
        """Whether an answer may be given from memory alone, in this turn of the loop."""
        return self.state is ShardState.SERVING and self.env.memory_reads_allowed()

    def evict(self, actor: ThreadActor) -> None:
        """Forget a resident thread that is not busy."""
        del self.actors[actor.thread_id]

    def forget(self, actor: ThreadActor) -> None:
        """Forget a thread that nothing waits for, or that does not exist."""
        if self.actors.get(actor.thread_id) is actor:
            del self.actors[actor.thread_id]
        self._residents.remove(actor)

    def weigh(self, actor: ThreadActor) -> None:
        """Count a resident thread's bytes."""
        self._residents.weigh(actor)

    # --- the stream's host

    def suspended(self) -> None:
        if self.state is ShardState.SERVING:
            self.state = ShardState.SUSPENDED

    def resumed(self) -> None:
        if self.state is ShardState.SUSPENDED:
            self.state = ShardState.SERVING
            self.retry_stashed()

    def stored(self, rows: list[Row], xid: int | None) -> None:
        if self.state is not ShardState.CLOSED:  # the worker may have adopted the shard again, from a head of its own
            if self._taps:
                self._taps.stored(rows, self.stream.epoch, self._residents.now())
            self.env.projection.advance(self.shard_id, self.stream.head, rows, self.stream.epoch, xid)

    def on_ownership_lost(self, in_flight: list[Row]) -> None:
        """Close: another owner has the shard, and the waiting requests, of which nothing is stored, are redirected."""
        del in_flight  # their asks are known to their actors
        # Both calls in one turn of the loop: a redirected request runs after the region has forgotten this shard.
        self.close()
        self._on_lost(self)

    # --- how busy it is

    def measure(self, elapsed_s: float) -> None:
        """Fold the commands since the last call, ``elapsed_s`` ago, into the load."""
        self._taps.expire(self._residents.now())
        commands, batches, append_s = self._counted
        self._counted = (self.commands, self.stream.batches, self.stream.append_s)
        weight = 1.0 - math.exp(-elapsed_s / _MEMORY_S)
        rate, append_ms = self.measured
        rate += weight * ((self.commands - commands) / elapsed_s - rate)
        if self.stream.batches > batches:
            now_ms = (self.stream.append_s - append_s) / (self.stream.batches - batches) * 1000.0
            append_ms = append_ms + weight * (now_ms - append_ms) if append_ms else now_ms
        self.measured = Load(rate, append_ms)

    # --- moving

    def preload(self, threads: Mapping[ThreadId, Recovered]) -> None:
        """Make threads resident that were read before the shard came; the last asked comes first in ``threads``."""
        for thread_id, found in reversed(list(threads.items())):
            if self._residents.full:
                return
            if found.state is None:
                continue
            actor = ThreadActor(thread_id, self, env=self.env, stream=self.stream)
            self.actors[thread_id] = actor
            self._residents.add(actor)
            actor.loaded(found)

    def hot_threads(self, now: float, most: int) -> tuple[ThreadId, ...]:
        """The resident threads that were asked lately, the last one first."""
        hot = [
            actor for actor in self.actors.values() if actor.phase is Phase.ACTIVE and now - actor.last_used_at < _HOT_S
        ]
        hot.sort(key=lambda actor: -actor.last_used_at)
        return tuple(actor.thread_id for actor in hot[:most])

    def resume(self) -> None:
        """Admit again: the handoff was aborted."""
        if self.state is ShardState.RELEASING:
            # An append may have become unknown during the drain: its resolver then resumes the shard.
            self.state = ShardState.SUSPENDED if self.stream.state is AppendQueueState.UNKNOWN else ShardState.SERVING
            self.retry_stashed()

    async def drain(self) -> int:
        """Stop admitting, and return the head when nothing is on its way to the journal.  Held asks stay held until `close`."""
        if self.state is not ShardState.CLOSED:
            self.state = ShardState.RELEASING
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not drained.done():  # the time-out of the handoff cancels the waiter
                drained.set_result(None)

        self.stream.when_drained(tell)
        await drained
        # The head does not move after the callback: a releasing shard submits no row.
        return self.stream.head

    def close(self, owner: str | None = None, epoch: int = 0) -> None:
        """Drop all actors; waiting requests are redirected to the next owner, if it is known.

        Rows at the server at this moment stay with their actors: the answer to their batch says what became of them.
        """
        # The state first: a request that arrives from a callback below is redirected, not stashed.
        self.state = ShardState.CLOSED
        queued = Counter(row.writer for row in self.stream.close())
        # The appender may close the shard before ownership does, which knows the owner: the newer epoch counts.
        if epoch > self._successor[1]:
            self._successor = (owner, epoch)
        successor = self._successor
        self._taps.redirect(*successor)
        at_server = self.stream.in_flight > 0
        for actor in self.actors.values():
            self._residents.remove(actor)
            if at_server and (count := queued[actor]):
                actor.send_on(count, *successor)  # never sent, whatever becomes of what is at the server
            if not (at_server and actor.pending):
                actor.abandon(*successor)
        if not at_server:
            self.actors.clear()
        for ask in self._held:
            ask.redirect(*successor)
        self._held.clear()
        for ask in self._reading:
            ask.redirect(*successor)
        self._reading.clear()
        for task, waiting in list(self._tasks.items()):
            task.cancel()
            if waiting is not None:  # a cancelled task answers nothing
                waiting.redirect(*successor)

    # --- what takes a while

    def load(self, actor: ThreadActor) -> None:
        """Load an actor's history and pass it to the actor; tried again while a request waits for it."""
        self._spawn(self._load_or_poison(actor), f"load-{actor.thread_id}")

    async def _load_or_poison(self, actor: ThreadActor) -> None:
        try:
            await self._load(actor)
        except Exception as error:  # a bug: unhandled, the thread would never leave LOADING; logged with its cause
            log.exception("shard failed to load a thread", extra={"shard": self.shard_id, "thread_id": actor.thread_id})
            actor.poison(repr(error), self._residents.now())

    async def _load(self, actor: ThreadActor) -> None:
        while self.state is not ShardState.CLOSED:
            try:
                found = await self.env.journal.load(self.shard_id, actor.thread_id)
            except CONNECTION_ERRORS as error:  # a read may be repeated
                log.warning(
                    "shard failed to load a thread; trying again", extra={"shard": self.shard_id, "cause": repr(error)}
                )
                if all(ask.done for ask in actor.mailbox):
                    actor.give_up_waiting()
                    self.forget(actor)
                    return
                await asyncio.sleep(_RETRY_S)
                continue
            if isinstance(found, Poisoned):
                actor.poison(found.reason, self._residents.now())
            elif self.state is ShardState.RELEASING:
                self._hold_all(actor)  # to decide now would put more on its way to the journal
            else:  # a suspended shard too: rows queue behind the unknown batch, and no answer comes from memory alone
                actor.loaded(found)
                self._residents.trim()
            return

    def _hold_all(self, actor: ThreadActor) -> None:
        """Stash the requests that wait for a thread, and forget the thread."""
        self.forget(actor)
        while actor.mailbox:
            ask = actor.mailbox.popleft()
            if not ask.done:
                ask.unstash()
                self.stash(ask)

    def look_up_key(self, actor: ThreadActor, ask: PendingRequest, key_hash: bytes) -> None:
        """Ask the journal for an idempotency key, then decide the ask afresh."""
        ask.stash(self.env, actor)
        self._spawn(self._look_up_key(actor, ask, key_hash), "look-up-key", ask)

    async def _look_up_key(self, actor: ThreadActor, ask: PendingRequest, key_hash: bytes) -> None:
        # Taken before the query: a key that is stored during the query is in the actor's memory, or the check is void.
        checked = (actor.keys, actor.sequence_nr)
        while not ask.done:
            try:
                stored = await self.env.journal.look_up_key(self.shard_id, actor.uuid, key_hash)
            except CONNECTION_ERRORS as error:
                log.warning(
                    "shard failed to look a key up; trying again", extra={"shard": self.shard_id, "cause": repr(error)}
                )
                await asyncio.sleep(_RETRY_S)
                continue
            except UndecodableEvent as error:
                self._unreadable(actor, ask, error)
                return
            if ask.slot.done():  # ended meanwhile, and its request dropped
                return
            if stored is not None:
                first = Done(stored.seq_nr, message_ids_of(stored.event), False, stored.epoch)
                actor.key_found(ask, stored.body_hash, first, stored.command_id)
            else:
                ask.key_checked = checked
                ask.unstash()
                self.handle(ask, actor.thread_id)
            return

    def find_epoch(self, actor: ThreadActor, ask: PendingRequest, done: Done) -> None:
        """Answer ``done`` with the epoch of its event, which is read from the journal."""
        self._spawn(self._find_epoch(actor, ask, done), "find-epoch", ask)

    async def _find_epoch(self, actor: ThreadActor, ask: PendingRequest, done: Done) -> None:
        while not ask.done:
            try:
                epoch = await self.env.journal.read_epoch(self.shard_id, actor.uuid, done.sequence_nr)
            except CONNECTION_ERRORS as error:
                log.warning(
                    "shard failed to read an epoch; trying again",
                    extra={"shard": self.shard_id, "cause": repr(error)},
                )
                await asyncio.sleep(_RETRY_S)
                continue
            ask.answer(replace(done, epoch=epoch))

    def fetch_texts(self, actor: ThreadActor, ask: PendingRequest, needs: PendingTexts) -> None:
        """Fill a page of messages with their texts from the journal: with other pages, or by itself where that fails."""
        self._reading.add(ask)

        def fill(messages: list[PostedMessage] | None) -> None:
            self._reading.discard(ask)
            if ask.done:
                return
            if messages is not None:
                ask.answer(needs.with_texts(messages))
            else:
                self._spawn(self._fetch_texts(actor, ask, needs), "fetch-texts", ask)

        def wanted() -> bool:
            if ask.done:
                self._reading.discard(ask)
            return not ask.done

        self.env.journal.read_page(self.shard_id, actor.uuid, needs.taken, wanted, fill)

    async def _fetch_texts(self, actor: ThreadActor, ask: PendingRequest, needs: PendingTexts) -> None:
        while not ask.done:
            try:  # stored events never change: a later read of the same places gives the same texts
                messages = await self.env.journal.read_messages(
                    self.shard_id, actor.uuid, needs.places, most_bytes=PAGE_BYTES, wanted=lambda: not ask.done
                )
            except CONNECTION_ERRORS as error:
                log.warning(
                    "shard failed to read texts; trying again", extra={"shard": self.shard_id, "cause": repr(error)}
                )
                await asyncio.sleep(_RETRY_S)
                continue
            except UndecodableEvent as error:
                self._unreadable(actor, ask, error)
                return
            ask.answer(needs.with_texts(messages))
            return

    def _unreadable(self, actor: ThreadActor, ask: PendingRequest, error: UndecodableEvent) -> None:
        """Refuse a request that needs a stored event which is missing, or which this release cannot read."""
        log.error(
            "shard failed to read a stored event; request refused",
            extra={"shard": self.shard_id, "thread_id": actor.thread_id, "cause": repr(error)},
        )
        ask.answer(POISONED)

    def save_snapshot(self, actor: ThreadActor, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
        """Keep a snapshot of durable state, some time."""
        self.env.journal.save_snapshot(self.shard_id, actor.uuid, seq_nr, state, event_metadata)

    def _spawn(self, work: Coroutine[object, object, None], name: str, ask: PendingRequest | None = None) -> None:
        self._tasks[self.env.tasks.spawn(work, name=name, on_end=self._ended)] = ask

    def _ended(self, task: "asyncio.Task[None]") -> None:
        ask = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if ask is not None:
                ask.expire()  # a bug: nothing of it is stored, and it is answered at once
            log.error("shard task failed", exc_info=error, extra={"shard": self.shard_id, "task": task.get_name()})


def _thread_of(ask: PendingRequest) -> ThreadId:
    request = ask.request
    return request.command.thread_id if hasattr(request, "command") else request.thread_id
