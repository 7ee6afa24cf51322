"""A batch of plain messages gives what the projection gives for the same events, or nothing."""

import random
from typing import cast
from uuid import UUID

import pytest

from shard_worker.database.binary_arrays import int2s, int8s, texts, uuids
from shard_worker.domain.events import (
    Event,
    MemberIdsJoined,
    MessagesAdded,
    MessagesRemoved,
    PostedMessage,
    ThreadDestroyed,
)
from shard_worker.domain.ids import ulid_uuid
from shard_worker.journal import codec
from shard_worker.journal.append_queue import Row, Writer
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.readmodel.post_batch import PostBatch
from shard_worker.readmodel.projection import Changes, StoredEvent
from shard_worker.readmodel.recent_rows import recent_rows
from tests.support.journal_writer import ANN, BOB, created, message_id


class _Thread:
    def __init__(self, uuid: UUID) -> None:
        self.uuid = uuid


def row(thread: UUID, number: int, event: Event) -> Row:
    """An event as its append has it."""
    made = Row()
    made.writer, made.seq_nr = cast("Writer", _Thread(thread)), number
    made.event_type, made.event_version, made.payload = codec.encode(event)
    return made


def batch_of(rows: list[Row]) -> PostBatch:
    """Some rows of one shard, added and not read."""
    posts = PostBatch()
    posts.add(1, 1, recent_rows(rows), [(1, 1)] * len(rows))
    return posts


def added(rng: random.Random, **of_message: object) -> MessagesAdded:
    """A few messages of one sender."""
    texts_ = (None, "", "a", "an ä, an 🜚 and a \\x00-less end")
    return MessagesAdded(
        sender_id=rng.choice((ANN, BOB)),
        messages=tuple(
            PostedMessage(message_id(), rng.choice(texts_), **of_message)  # type: ignore[arg-type]  # as they come
            for _ in range(rng.randint(1, 3))
        ),
        at=rng.randrange(1 << 45),
        create_at=0,
    )


@pytest.mark.parametrize("seed", range(20))
def test_its_arrays_are_the_changes_of_the_projection(seed: int) -> None:
    """Of random events in many threads and shards."""
    rng = random.Random(seed)
    threads = {UUID(int=rng.getrandbits(128)): number for number in range(5)}
    numbers = dict.fromkeys(threads, 1)
    posts, changes = PostBatch(), Changes()
    for shard in range(4):
        rows: list[Row] = []
        stored: list[tuple[int, int]] = []
        for _ in range(rng.randint(1, 20)):
            thread = rng.choice([each for each, number in threads.items() if number % 4 == shard])
            numbers[thread] += 1
            event = added(rng)
            stored.append((rng.randrange(1 << 40), rng.randrange(1 << 60)))
            rows.append(row(thread, numbers[thread], event))
            changes.add(StoredEvent(shard, thread, numbers[thread], *stored[-1], event))
        posts.add(shard, 7, recent_rows(rows), stored)
        assert posts.unread
        assert rng.random() < 0.5 or (posts.read() and not posts.unread)  # at once, or with the next shard's
        assert posts.reached[shard] == 7 + len(rows)
    assert posts.read()
    heads, messages = list(changes.threads.items()), changes.messages
    assert posts.messages == len(messages)
    assert posts.arrays() == (
        uuids([thread for thread, _ in heads]),
        int8s([head.sequence_nr for _, head in heads]),
        int8s([head.epoch for _, head in heads]),
        int8s([head.activity_at or -1 for _, head in heads]),
        texts([str(head.xid) for _, head in heads]),
        uuids([message.thread_id for message in messages]),
        int8s([message.sequence_nr for message in messages]),
        int2s([message.index for message in messages]),
        uuids([ulid_uuid(message.message_id) for message in messages]),
        uuids([ulid_uuid(message.sender_id) for message in messages]),
        texts([message.body for message in messages]),
        int8s([message.created_at for message in messages]),
    )
    assert (len(changes.accounts), len(changes.removed), len(changes.mentions)) == (0, 0, 0)


def test_anything_but_plain_messages_is_left_to_the_projection() -> None:
    """Another event, a reply and addressees."""
    rng, thread = random.Random(1), UUID(int=7)
    for event in (
        created(),
        MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2),
        MessagesRemoved(remover_id=ANN, message_ids=(message_id(),), at=3, create_at=3),
        ThreadDestroyed(destroyer_id=ANN, at=3, create_at=3),
        added(rng, reply_message_id=message_id()),
        added(rng, to_account_ids=(BOB,)),
    ):
        rows = [row(thread, 2, added(rng)), row(thread, 3, event)]
        assert not batch_of(rows).read(), event


def test_what_is_no_event_or_no_id_is_refused() -> None:
    """A transaction finds out which thread has to stop."""
    good = row(UUID(int=7), 2, added(random.Random(1)))
    for payload in (b"", b"{}", good.payload[:-1], good.payload + b"," + good.payload, b"\xff" + good.payload):
        bad = row(UUID(int=7), 3, added(random.Random(1)))
        bad.payload = payload
        with pytest.raises(UndecodableEvent):
            batch_of([good, bad, good]).read()
    for sender in ("not an id", ANN[:-1], ANN + "0", "8" + ANN[1:], ANN[:-1] + "U", ANN[:-1] + "_", ANN[:-1] + "é"):
        bad = row(UUID(int=7), 3, added(random.Random(1)))
        bad.payload = bad.payload.replace(ANN.encode(), sender.encode()).replace(BOB.encode(), sender.encode())
        posts = batch_of([good, bad, good])
        assert posts.read()
        with pytest.raises(ValueError, match=r"ULID|base 32"):
            posts.arrays()
    older = row(UUID(int=7), 2, added(random.Random(1)))
    older.event_version = 99
    assert not batch_of([older]).read()
