"""Checking one thread's history: it decodes, folds, keeps what its events promise, and its snapshot says the same.  Pure.

`shard_worker.domain.events` documents what each event promises (these accounts, none of them one before; these
messages, all of them live).  The rights of the authors are not checked: rights are rules, a rule may change, and
history stays what it is.
"""

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, assert_never
from uuid import UUID

import msgspec

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ThreadId, shard_of, ulid_text
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import (
    STATE_VERSION,
    UndecodableEvent,
    decode,
    decode_state,
    same_state,
)
from shard_worker.journal.fsck.report import Check, Finding
from shard_worker.journal.fsck.shard import Found


class StoredRow(NamedTuple):
    """One journal row, with the thread's snapshots that stand at this very row."""

    shard_seq: int
    seq_nr: int
    event_type: int
    event_version: int
    payload: bytes
    metadata: bytes
    key_hash: bytes | None
    body_hash: bytes | None
    snapshots: tuple[tuple[int, bytes], ...] = ()
    """State version and state of each."""


class _Once:
    """Values that occur once in a thread: the first place of each, and the places of repetitions."""

    def __init__(self) -> None:
        self._first: dict[bytes | str, int] = {}
        self.again: dict[bytes | str, list[int]] = {}

    def note(self, name: bytes | str, seq_nr: int) -> None:
        """It is at this event."""
        first = self._first.setdefault(name, seq_nr)
        if first != seq_nr:
            self.again.setdefault(name, [first]).append(seq_nr)


class ThreadCheck:
    """Walks one thread's rows in the order of ``seq_nr``; call `row` for each, then `end`."""

    def __init__(self, shard_id: int, thread_id: UUID, shards: int, found: Found) -> None:
        self.compared = 0
        self.ignored = 0
        self._shard_id = shard_id
        self._thread_id = thread_id
        self._found = found
        self._last_nr = 0
        self._last_shard_seq = 0
        self._state: Thread | None = None
        self._foldable = True
        self._keys = _Once()
        self._commands = _Once()
        right = shard_of(ThreadId(ulid_text(thread_id.bytes)), shards)
        if right != shard_id:
            self._say(Check.PLACE, f"the thread belongs to shard {right}")

    def row(self, row: StoredRow) -> None:
        """The next row of the thread."""
        self._order(row)
        self._key(row)
        self._metadata(row)
        event = self._decoded(row)
        if event is None:
            self._foldable = False
        elif self._foldable:
            self._fold(row.seq_nr, event)
        for state_version, state in row.snapshots:
            self._snapshot(row.seq_nr, state_version, state)
        self._last_nr, self._last_shard_seq = row.seq_nr, row.shard_seq

    def end(self) -> None:
        """The thread has no further row."""
        for check, once, what in (
            (Check.KEY, self._keys, "the same idempotency key is on events"),
            (Check.COMMAND, self._commands, "the same command stored events"),
        ):
            for seq_nrs in once.again.values():
                self._say(check, f"{what} {', '.join(map(str, seq_nrs))}", seq_nrs[-1])

    def _order(self, row: StoredRow) -> None:
        expected = self._last_nr + 1
        if row.seq_nr < expected:
            self._foldable = False
            self._say(Check.THREAD_SEQ, "the number occurs twice", row.seq_nr)
        elif row.seq_nr > expected:
            self._foldable = False
            what = "the event is" if row.seq_nr == expected + 1 else f"the events from here to {row.seq_nr - 1} are"
            self._say(Check.THREAD_SEQ, f"{what} missing", expected)
        if row.shard_seq <= self._last_shard_seq:
            self._say(
                Check.THREAD_SEQ,
                f"has number {row.shard_seq} in its shard, but the event before it has {self._last_shard_seq}",
                row.seq_nr,
            )

    def _key(self, row: StoredRow) -> None:
        if (row.key_hash is None) != (row.body_hash is None):
            missing = "its body's hash" if row.body_hash is None else "its key"
            self._say(Check.KEY, f"half a key: {missing} is missing", row.seq_nr)
        for name, value in (("key", row.key_hash), ("body hash", row.body_hash)):
            if value is not None and len(value) != 16:
                self._say(Check.KEY, f"the {name} has {len(value)} bytes, not 16", row.seq_nr)

        if row.key_hash is not None:
            self._keys.note(row.key_hash, row.seq_nr)

    def _metadata(self, row: StoredRow) -> None:
        try:
            command = msgspec.json.decode(row.metadata, type=dict[str, object]).get("commandId")
            if isinstance(command, str):
                self._commands.note(command, row.seq_nr)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._say(Check.PAYLOAD, f"the metadata is no JSON object: {error}", row.seq_nr)

    def _decoded(self, row: StoredRow) -> Event | None:
        try:
            return decode(row.event_type, row.event_version, row.payload)
        except UndecodableEvent as error:
            self._say(Check.PAYLOAD, str(error), row.seq_nr)
            return None

    def _fold(self, seq_nr: int, event: Event) -> None:
        name = type(event).__name__
        for wrong in broken_promises(self._state, event):
            self._say(Check.HISTORY, f"{name}: {wrong}", seq_nr)
        try:
            self._state = evolve(self._state, event, seq_nr)
        except Exception as error:  # noqa: BLE001  # whatever evolve trips over is the finding
            self._foldable = False
            self._say(Check.HISTORY, f"{name} cannot be applied: {error!r}", seq_nr)

    def _snapshot(self, seq_nr: int, state_version: int, raw: bytes) -> None:
        if state_version != STATE_VERSION:
            self.ignored += 1
            return
        if not self._foldable or self._state is None:
            return  # the history itself is a finding already
        self.compared += 1
        try:
            kept = decode_state(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._say(Check.SNAPSHOT, f"does not decode: {error}", seq_nr)
            return
        if not same_state(kept, self._state):
            fields = [name for name in Thread.__struct_fields__ if _differs(name, kept, self._state)]
            self._say(Check.SNAPSHOT, f"is not what its events give; it differs in {', '.join(fields)}", seq_nr)

    def _say(self, check: Check, detail: str, seq_nr: int | None = None) -> None:
        self._found(
            Finding(check=check, detail=detail, shard_id=self._shard_id, thread_id=self._thread_id, seq_nr=seq_nr)
        )


def broken_promises(state: Thread | None, event: Event) -> Iterator[str]:
    """Promises of an event about the thread before it that the thread does not keep."""
    if state is None:
        if not isinstance(event, ThreadCreated):
            yield "comes before the creation"
        elif not event.administrator_ids:
            yield "has no administrator"
        return
    if state.destroyed:
        yield "comes after the destruction"
    if event.at < state.updated_at:
        yield f"its time {event.at} is before {state.updated_at}, the time of the event before"
    yield from _of_its_type(state, event)


def _of_its_type(state: Thread, event: Event) -> Iterator[str]:
    """Broken promises that only events of this type make, about a thread that exists."""
    match event:
        case ThreadCreated():
            yield "creates the thread again"
        case ThreadDestroyed():
            pass
        case AdministratorIdsJoined():
            yield from _new("administrators", event.administrator_ids, state.administrators)
        case AdministratorIdsLeft():
            yield from _present("administrators", event.administrator_ids, state.administrators)
            if len(event.administrator_ids) >= len(state.administrators):
                yield "leaves no administrator"
        case MemberIdsJoined():
            yield from _new("members", event.member_ids, state.members)
        case MemberIdsLeft():
            yield from _present("members", event.member_ids, state.members)
        case MessagesAdded():
            yield from _new("messages", [message.message_id for message in event.messages], state.messages)
        case MessagesRemoved():
            yield from _present("messages", event.message_ids, state.messages)
            yield from _own(event, state)
        case _:
            assert_never(event)


def _new(what: str, ids: Sequence[str], known: Container[str]) -> Iterator[str]:
    if not ids:
        yield f"adds no {what}"
    if len(set(ids)) < len(ids):
        yield f"names {what} twice"
    there = [id for id in ids if id in known]
    if there:
        yield f"adds {what} that are there: {_some(there)}"


def _present(what: str, ids: Sequence[str], known: Container[str]) -> Iterator[str]:
    if not ids:
        yield f"takes no {what} away"
    absent = [id for id in ids if id not in known]
    if absent:
        yield f"takes {what} away that are not there: {_some(absent)}"


def _own(event: MessagesRemoved, state: Thread) -> Iterator[str]:
    others = [
        message_id
        for message_id in event.message_ids
        if message_id in state.messages and state.messages[message_id].sender_id != event.remover_id
    ]
    if others:
        yield f"removes messages that are another's: {_some(others)}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _differs(name: str, kept: Thread, folded: Thread) -> bool:
    one, other = getattr(kept, name), getattr(folded, name)
    return bool(one != other) or (isinstance(one, dict) and list(one) != list(other))
