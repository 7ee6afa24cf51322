"""A journal in memory for accounts' streams, with what a real one may do: late commits, aborted appends, another history.

Transactions get their ids when they begin and become visible when they end, in any order over shards.  The read model is behind
each shard by any number of events.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shard_worker.contract import LiveEvent
from shard_worker.domain.events import (
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.ids import AccountId, ThreadId, ulid_text, ulid_uuid
from shard_worker.journal.codec import decode, encode
from shard_worker.journal.settled import Mark, settled_xid
from shard_worker.streams.access import NO_ROLES, PastAccess, Roles, rewind, roles_after
from shard_worker.streams.account_journal import NewEvents, ReadThread, TailEvent
from tests.support.node import account, thread

SHARDS = 3


@dataclass
class Stored:
    """One event of the journal."""

    uuid: UUID
    shard_id: int
    seq_nr: int
    event: Event
    xid: int
    epoch: int
    shard_seq: int = 0

    @property
    def name(self) -> tuple[str, int, int]:
        """The event as a client knows it."""
        return (ulid_text(self.uuid.bytes), self.seq_nr, self.epoch)


@dataclass
class World:
    """The database, and what is under way in it."""

    rng: random.Random
    me: AccountId = field(default_factory=account)
    other: AccountId = field(default_factory=account)
    generation: int = 1
    next_xid: int = (1 << 32) - 40
    """The lower half of the ids wraps during a run."""
    completed: int = (1 << 32) - 41
    shards: list[list[Stored]] = field(default_factory=lambda: [[] for _ in range(SHARDS)])
    appends: dict[int, list[Stored]] = field(default_factory=dict)
    """By shard, the append that is under way: one at a time."""
    over: bool = False
    """Whether nothing happens any more."""
    bystanders: list[int] = field(default_factory=list)
    """Transactions that write elsewhere."""
    heads: dict[UUID, tuple[int, bool, bool]] = field(default_factory=dict)
    """By thread: newest number, whether the account reads it, whether it is destroyed."""

    projected: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(SHARDS), 0))
    """By shard, the last event that lists show: at any time behind the journal."""

    # --- what happens

    def _xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def _end(self, xid: int) -> None:
        self.completed = max(self.completed, xid)

    def step(self) -> bool:
        """Let something happen; whether an event became visible."""
        kind = self.rng.random()
        shard = self.rng.randrange(SHARDS)
        if self.rng.random() < 0.3:
            at = self.rng.randrange(SHARDS)
            self.projected[at] = self.rng.randint(self.projected[at], len(self.shards[at]))
        if kind < 0.1:
            self.bystanders.append(self._xid())
        elif kind < 0.18 and self.bystanders:
            self._end(self.bystanders.pop(self.rng.randrange(len(self.bystanders))))
        elif shard not in self.appends:
            xid = self._xid()
            self.appends[shard] = [self._event(shard, xid) for _ in range(self.rng.randint(1, 3))]
        elif kind < 0.8:
            return self.finish(shard, stored=self.rng.random() < 0.9)
        return False

    def finish(self, shard: int, *, stored: bool) -> bool:
        """End the append of a shard."""
        rows = self.appends.pop(shard)
        self._end(rows[0].xid)
        if stored:
            for row in rows:
                row.shard_seq = len(self.shards[shard]) + 1
                self.shards[shard].append(row)
        self._fold()
        return stored

    def _fold(self) -> None:
        self.heads = {}
        for rows in (*self.shards, *self.appends.values()):
            for row in rows:
                _, reads, destroyed = self.heads.get(row.uuid, (0, False, False))
                reads = roles_after(Roles(member=reads), self.me, row.event).reader
                self.heads[row.uuid] = (row.seq_nr, reads, destroyed or isinstance(row.event, ThreadDestroyed))

    def _event(self, shard: int, xid: int) -> Stored:
        mine = [uuid for uuid, (_, _, over) in self.heads.items() if uuid.int % SHARDS == shard and not over]
        if not mine or (len(mine) < 4 and self.rng.random() < 0.3):
            thread_id = thread()
            while ulid_uuid(thread_id).int % SHARDS != shard:
                thread_id = thread()
            uuid, number, reads = ulid_uuid(thread_id), 0, False
            members = (self.me,) if self.rng.random() < 0.6 else ()
            event: Event = ThreadCreated(self.other, None, "t", None, (self.other,), members, 1, 1)
        else:
            uuid = self.rng.choice(mine)
            number, reads, _ = self.heads[uuid]
            kind = self.rng.random()
            if kind < 0.15:
                by = (self.me,)
                event = MemberIdsLeft(self.other, by, 1, 1) if reads else MemberIdsJoined(self.other, by, 1, 1)
            elif kind < 0.18:
                event = ThreadDestroyed(self.other, 1, 1)
            else:
                event = MessagesAdded(self.other, (), 1, 1)
        reads = roles_after(Roles(member=reads), self.me, event).reader
        self.heads[uuid] = (number + 1, reads, isinstance(event, ThreadDestroyed))
        return Stored(uuid, shard, number + 1, event, xid, self.generation)

    def fail_over(self) -> None:
        """Lose some of the newest events, and go on in another history."""
        for shard in list(self.appends):
            self.finish(shard, stored=False)
        for rows in self.shards:
            del rows[len(rows) - min(len(rows), self.rng.randrange(4)) :]
        for shard, rows in enumerate(self.shards):
            self.projected[shard] = min(len(rows), max(0, self.projected[shard] - self.rng.randrange(3)))
        self.generation += 1
        self._fold()

    def visible_to_me(self) -> list[Stored]:
        """The events that the account may see, each shard's in their order."""
        found = []
        roles: dict[UUID, Roles] = {}
        for rows in self.shards:
            for row in rows:
                before = roles.get(row.uuid, NO_ROLES)
                after = roles[row.uuid] = roles_after(before, self.me, row.event)
                if before.reader or after.reader:
                    found.append(row)
        return found

    def listed(self) -> list[Stored]:
        """The events that a list shows."""
        return [row for shard, rows in enumerate(self.shards) for row in rows[: self.projected[shard]]]

    # --- `AccountJournal`

    def _turns(self) -> "asyncio.Future[None] | asyncio.Task[None]":
        return asyncio.ensure_future(asyncio.sleep(0))

    @property
    def _name(self) -> str:
        return f"{self.generation:026d}"

    async def mark(self) -> Mark:
        """As the server would: a snapshot, and the writers some time later."""
        xmax, generation = self.completed + 1, self._name
        under_way = [*(rows[0].xid for rows in self.appends.values()), *self.bystanders]
        xmin = min([*[xid for xid in under_way if xid < xmax], xmax])
        for _ in range(0 if self.over else self.rng.randrange(4)):
            self.step()
        writers = [rows[0].xid for rows in self.appends.values()]
        nameless = bool(writers) and self.rng.random() < 0.5
        if nameless:
            writers.pop()
        await self._turns()
        return Mark(generation, settled_xid(xmin, xmax, [xid % (1 << 32) for xid in writers], nameless=nameless), xmax)

    async def heads_(self) -> dict[int, int]:
        """The newest event of each shard."""
        found = {shard: len(rows) for shard, rows in enumerate(self.shards)}
        await self._turns()
        return found

    async def new_events(self, heads: Mapping[int, int]) -> NewEvents:
        """Some of what came behind the heads."""
        most = self.rng.randint(1, 6)
        rows = [row for shard, head in heads.items() for row in self.shards[shard][head : head + most]]
        more = any(len(self.shards[shard]) > head + most for shard, head in heads.items())
        found = NewEvents(self._name if rows else None, [self._tail_event(row) for row in rows], more)
        await self._turns()
        return found

    @staticmethod
    def _tail_event(row: Stored) -> TailEvent:
        event_type, version, payload = encode(row.event)
        return TailEvent(
            {  # type: ignore[arg-type]  # a record is read like a mapping
                "shard_id": row.shard_id,
                "shard_seq": row.shard_seq,
                "thread_id": row.uuid,
                "seq_nr": row.seq_nr,
                "epoch": row.epoch,
                "event_type": event_type,
                "event_version": version,
                "size": len(payload),
            }
        )

    async def read_payloads(self, events: Sequence[TailEvent]) -> None:
        """Fill what is lacking."""
        await self._turns()
        for event in events:
            rows = self.shards[event.shard_id]
            row = rows[event.shard_seq - 1] if event.shard_seq <= len(rows) else None
            if row is None or row.epoch != event.epoch:
                raise ConnectionError("the history changed")
            event.payload = encode(row.event)[2]

    async def unprojected(self) -> int | None:
        """The least transaction of an event that a list of now lacks."""
        behind = [
            rows[self.projected[shard]] for shard, rows in enumerate(self.shards) if self.projected[shard] < len(rows)
        ]
        await self._turns()
        return min((row.xid for row in behind), default=None)

    async def offsets(self) -> dict[int, int]:
        """The read model is always far enough, as far as the reader can tell."""
        return await self.heads_()

    async def threads(self, account_id: AccountId, heads: Mapping[int, int]) -> list[ReadThread]:
        """As of the heads, or of any later moment."""
        found: dict[UUID, ReadThread] = {}
        for shard, head in heads.items():
            rows = self.shards[shard]
            for row in rows[: self.rng.randint(min(head, len(rows)), len(rows))]:
                known = found.get(row.uuid, ReadThread(row.uuid, shard, 0, NO_ROLES, 0, False, False))
                roles = roles_after(known.roles, account_id, row.event)
                seen = row.seq_nr if roles.reader or known.roles.reader else known.sequence_nr
                over = known.destroyed or (roles.reader and isinstance(row.event, ThreadDestroyed))
                found[row.uuid] = ReadThread(row.uuid, shard, seen, roles, row.xid, over, False)
        await self._turns()
        threads = [each for each in found.values() if each.sequence_nr]
        self.rng.shuffle(threads)
        return threads

    async def first_since(self, thread: ReadThread, xid: int, after_seq: int, up_to: int) -> int | None:
        """The first event of a thread that a position does not cover."""
        await self._turns()
        rows = [row for row in self.shards[thread.shard_id] if row.uuid == thread.uuid and row.seq_nr <= up_to]
        return next((row.seq_nr for row in rows if row.xid >= xid and row.shard_seq > after_seq), None)

    # --- `StreamHistory`

    def _of(self, thread_id: ThreadId) -> list[Stored]:
        uuid = ulid_uuid(thread_id)
        return [row for row in self.shards[uuid.int % SHARDS] if row.uuid == uuid]

    async def page(self, thread_id: ThreadId, after: int, epoch: int | None) -> list[LiveEvent] | None:
        """Some events of a thread."""
        del epoch
        await self._turns()
        rows = self._of(thread_id)
        if after > len(rows):
            return None
        part = rows[after : after + self.rng.randint(1, 4)]
        return [LiveEvent(row.seq_nr, row.epoch, *encode(row.event)) for row in part]

    async def past_access(
        self, thread_id: ThreadId, account_id: AccountId, present: PastAccess, span: tuple[int, int]
    ) -> PastAccess:
        """Access before some events."""
        await self._turns()
        rows = self._of(thread_id)[span[0] : span[1]]
        return rewind(present, account_id, [decode(*encode(row.event)) for row in reversed(rows)])
