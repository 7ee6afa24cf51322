"""Texts of single messages from a real Postgres: slices where their places hold, whole events where they do not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from shard_worker.database.connection import Database, ReadPool
from shard_worker.domain.events import Event, MessagesAdded, PostedMessage, encoded_size
from shard_worker.domain.ids import AccountId, MessageId, ShardId, ThreadId, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import STATE_VERSION, UndecodableEvent, decode_state, encode
from shard_worker.journal.message_reader import MessagePlace, MessageReader
from tests.support.journal_writer import (
    ANN,
    BOB,
    JournalWriter,
    created,
    encode_previous_state,
    folded,
    message_id,
    new_thread,
)

EVERYTHING = 1 << 30


@dataclass
class Kept:
    """A thread whose messages are read."""

    pen: JournalWriter
    reader: MessageReader
    thread: ThreadId
    shard: ShardId
    state: Thread
    posted: list[PostedMessage]

    def places(self) -> list[MessagePlace]:
        return [
            MessagePlace(id, live.sequence_nr, live.index, live.offset, live.size)
            for id, live in self.state.messages.items()
        ]

    async def read(
        self, places: list[MessagePlace] | None = None, *, most_bytes: int = EVERYTHING, over: bool = False
    ) -> list[PostedMessage]:
        return await self.reader.read(
            self.shard,
            ulid_uuid(self.thread),
            self.places() if places is None else places,
            most_bytes=most_bytes,
            wanted=lambda: not over,
        )


def message(text: str, *, reply: MessageId | None = None, to: tuple[AccountId, ...] = ()) -> PostedMessage:
    """A message with a fresh id."""
    return PostedMessage(message_id(), text, reply, to)


@pytest.fixture
async def kept(dsn: str) -> AsyncIterator[Kept]:
    """Six messages of all kinds in three events."""
    connection = await asyncpg.connect(dsn)
    pool: ReadPool = await Database(dsn, application_name=lambda: "test").pool(most=2)
    first = message('quotes " and \\ and \n lines \u0001, {"messageId":"x"}')
    posted = [first, message("\u00e9\U0001f600\u2028", reply=first.message_id, to=(ANN, BOB)), message("")]
    posted += [message("plain"), message("w" * 4000, to=(BOB,)), message("\u200b" * 4000)]
    pen, thread = JournalWriter(connection), new_thread()
    events: list[Event] = [
        created(),
        *[MessagesAdded(sender_id=ANN, messages=tuple(posted[at : at + 2]), at=2, create_at=2) for at in (0, 2, 4)],
    ]
    shard = await pen.write(thread, *events)
    yield Kept(pen, MessageReader(pool), thread, shard, folded(events), posted)
    pool.terminate()
    await connection.close()


async def test_messages_are_read_without_their_events(kept: Kept) -> None:
    """Every character that JSON escapes, or UTF-8 makes longer, is where the place says."""
    assert await kept.read() == kept.posted
    assert await kept.read(kept.places()[3:5]) == kept.posted[3:5]
    assert kept.reader.whole_events == 0


async def test_an_unknown_place_has_its_event_read_whole(kept: Kept) -> None:
    """As of a state of the version before; no more than fits, and nothing for a request that is over."""
    kept.state = decode_state(encode_previous_state(kept.state), STATE_VERSION - 1)
    assert [place.size for place in kept.places()] == [0] * 6
    assert await kept.read() == kept.posted
    assert kept.reader.whole_events == 3
    assert await kept.read(over=True) == []
    fits = sum(encoded_size(one) for one in kept.posted[:4])
    assert await kept.read(most_bytes=fits) == kept.posted[:4]
    assert await kept.read(most_bytes=1) == kept.posted[:1], "at least one"


async def test_an_event_that_is_laid_out_otherwise_is_read_whole(kept: Kept) -> None:
    """A text was redacted, or another release wrote the event with white space: the place is only a hint."""
    redacted = [PostedMessage(kept.posted[0].message_id, None), kept.posted[1]]
    _, _, payload = encode(MessagesAdded(sender_id=ANN, messages=tuple(redacted), at=2, create_at=2))
    update = "UPDATE journal SET payload = $1 WHERE thread_id = $2 AND seq_nr = 2"
    await kept.pen.connection.execute(update, payload, ulid_uuid(kept.thread))
    await kept.pen.connection.execute(
        "UPDATE journal SET payload = decode(replace(encode(payload, 'hex'), '5b', '5b20'), 'hex') WHERE seq_nr = 3"
    )
    assert await kept.read() == [*redacted, *kept.posted[2:]]
    assert kept.reader.whole_events == 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("DELETE FROM journal WHERE seq_nr = 3", "event 3.*missing"),
        ("UPDATE journal SET payload = '{' WHERE seq_nr = 3", "MessagesAdded"),
        ("UPDATE journal SET event_version = 99 WHERE seq_nr = 3", "version 99"),
        ("UPDATE journal SET event_type = 99, payload = '{}' WHERE seq_nr = 3", "type 99"),
        (
            "UPDATE journal j SET payload = o.payload FROM journal o WHERE o.seq_nr = 2 AND j.seq_nr = 3",
            "does not hold message",
        ),
    ],
    ids=["missing", "payload", "version", "type", "other-messages"],
)
async def test_an_event_that_cannot_be_read_is_named(kept: Kept, damage: str, reason: str) -> None:
    """At once: waiting does not repair it."""
    await kept.pen.connection.execute(damage)
    assert await kept.read(kept.places()[:2]) == kept.posted[:2]
    with pytest.raises(UndecodableEvent, match=reason):
        await kept.read()
