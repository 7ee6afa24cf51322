"""Pages before, after and around a message on a real journal: the owner and the read model give the same, and what is counted."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg
import pytest
from msgspec.structs import replace

from shard_worker.actors.queries import PendingTexts, SortedAccounts, answer_query
from shard_worker.contract import GetMessageWindow, MessageLocation, MessagePage, OwnerAnswer, Unavailable
from shard_worker.database.connection import ReadPool
from shard_worker.domain.events import Event, MemberIdsJoined, MessagesAdded, MessagesRemoved, PostedMessage
from shard_worker.domain.ids import MessageId, ShardId, ulid_uuid
from shard_worker.domain.message_window import Side
from shard_worker.domain.thread import Thread
from shard_worker.gateway.public.responses import messages as rendered
from shard_worker.journal.answer_size import PAGE_BYTES
from shard_worker.journal.codec import STATE_VERSION, decode_state
from shard_worker.journal.message_reader import MessageReader
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import QuerySources
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.readmodel.sessions import caught_up, connecting
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
from tests.support.naive_window import naive_window
from tests.support.polling import eventually

SHARD = 3


class Posted(NamedTuple):
    """A message of the history."""

    message_id: MessageId
    place: tuple[int, int]
    live: bool


def history(rng: random.Random, *, events: int, greatest: int) -> tuple[list[Event], list[Posted]]:
    """Messages of many lengths, of which some were removed."""
    made: list[Event] = [created(), MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2)]
    places: dict[MessageId, tuple[int, int]] = {}
    live: list[MessageId] = []
    while len(made) < events:
        if live and rng.random() < 0.25:
            gone = tuple(rng.sample(live, min(len(live), rng.randint(1, 3))))
            live = [each for each in live if each not in gone]
            made.append(MessagesRemoved(remover_id=ANN, message_ids=gone, at=len(made), create_at=1))
            continue
        posted = tuple(
            PostedMessage(message_id(), rng.choice(("é", 'x"', "\n")) * rng.randint(0, greatest), None, (BOB,))
            for _ in range(rng.randint(1, 20))
        )
        made.append(MessagesAdded(sender_id=ANN, messages=posted, at=len(made), create_at=1))
        places |= {each.message_id: (len(made), index) for index, each in enumerate(posted)}
        live += [each.message_id for each in posted]
    return made, [Posted(each, place, each in set(live)) for each, place in places.items()]


class Owner:
    """Answers as the owner does: from a thread's state, and with texts from the journal."""

    def __init__(self, state: Thread, pool: ReadPool) -> None:
        self._state = state
        self._reader = MessageReader(pool)
        self.read_whole = 0

    async def ask(self, query: GetMessageWindow) -> OwnerAnswer:
        """The answer to a query."""
        answer = answer_query(self._state, query, SortedAccounts())
        if not isinstance(answer, PendingTexts):
            return answer
        uuid = ulid_uuid(query.thread_id)
        messages = await self._reader.read(
            ShardId(SHARD), uuid, answer.places, most_bytes=PAGE_BYTES, wanted=lambda: True
        )
        self.read_whole = self._reader.whole_events
        return answer.with_texts(messages)


@asynccontextmanager
async def both_sources(dsn: str, state: Thread) -> AsyncIterator[tuple[Owner, ReadModelQueries]]:
    """The owner of a thread, and a read model that has projected its journal."""
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(ShardId(SHARD), state.sequence_nr)
    updater.start()
    connection = await asyncpg.connect(dsn)
    pool = ReadPool(await asyncpg.create_pool(dsn, min_size=1, max_size=2))
    try:
        await eventually(lambda: caught_up(connection), what="the history is projected")
        yield Owner(state, pool), ReadModelQueries(QuerySources(pool), MarkerWriter(pool))
    finally:
        pool.terminate()
        await connection.close()
        await updater.close()


def expected(posted: list[Posted], anchor: Posted, side: Side, limit: int) -> list[MessageId]:
    """The ids of a page, as the contract counts them."""
    live = [each for each in posted if each.live]
    older = [each.message_id for each in live if each.place < anchor.place]
    newer = [each.message_id for each in live if each.place > anchor.place]
    own = [anchor.message_id] if anchor.live else []
    return naive_window(side, older, own, newer, limit)


async def asked(
    owned: Owner, read_model: ReadModelQueries, query: GetMessageWindow, place: tuple[int, int]
) -> MessagePage:
    """The page that both sources give; the owner gets the place of an anchor that it does not know."""
    answer = await read_model.answer(query)
    owner = await owned.ask(query)
    if isinstance(owner, MessageLocation):
        assert owner == MessageLocation(None, query.min_sequence_nr)
        owner = await owned.ask(replace(query, anchor=None, place=place))
    assert isinstance(answer, MessagePage)
    assert replace(answer, epoch=0) == owner  # the actor puts the epoch in
    return answer


@pytest.mark.parametrize("seed", range(2))
async def test_both_sources_give_the_page_that_is_counted(seed: int, dsn: str) -> None:
    """For every kind of anchor, removed ones too, and limits from one to more than there is."""
    rng = random.Random(seed)
    connection = await asyncpg.connect(dsn)
    thread_id = new_thread(SHARD)
    events, posted = history(rng, events=30, greatest=5)
    await JournalWriter(connection).write(thread_id, *events)
    await connection.close()
    async with both_sources(dsn, folded(events)) as (owner, read_model):
        for _ in range(40):
            anchor, side, limit = rng.choice(posted), rng.choice(list(Side)), rng.choice((1, 2, 3, 4, 7, 20, 1000))
            query = GetMessageWindow(thread_id, BOB, limit, side, anchor.message_id, None, len(events))
            page = await asked(owner, read_model, query, anchor.place)
            assert [each.message_id for each in page.messages] == expected(posted, anchor, side, limit)
            ends = expected(posted, anchor, side, 10_000)
            if page.messages:
                end = 0 if side is Side.BEFORE else -1
                assert page.more == (ends[end] != page.messages[end].message_id)


@pytest.mark.parametrize("sizes", ["known", "unknown"])
async def test_a_page_that_is_cut_by_its_bytes_keeps_what_is_next_to_the_anchor(sizes: str, dsn: str) -> None:
    """Also where the owner must read the texts to know how long they are."""
    rng = random.Random(5)
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    thread_id = new_thread(SHARD)
    events, posted = history(rng, events=45, greatest=12_000)
    await writer.write(thread_id, *events)
    state = folded(events)
    if sizes == "unknown":
        state = decode_state(encode_previous_state(state), STATE_VERSION - 1)
    await connection.close()
    live = [each.message_id for each in posted if each.live]
    cut = 0
    async with both_sources(dsn, state) as (owner, read_model):
        for anchor in rng.sample(posted, 6):
            for side in Side:
                query = GetMessageWindow(thread_id, BOB, 1000, side, anchor.message_id, None, len(events))
                page = await asked(owner, read_model, query, anchor.place)
                ids = [each.message_id for each in page.messages]
                wanted = expected(posted, anchor, side, 1000)
                if not ids:
                    assert not wanted
                    continue
                assert len(rendered(thread_id, page, "c" * 100)) <= PAGE_BYTES
                begin = live.index(ids[0])
                assert ids == live[begin : begin + len(ids)], "an unbroken run"
                assert not anchor.live or side is not Side.AROUND or anchor.message_id in ids
                assert page.more == ((ids[0] != wanted[0]) if side is Side.BEFORE else (ids[-1] != live[-1]))
                cut += len(ids) < len(wanted)
    assert cut > 6
    assert (owner.read_whole > 0) == (sizes == "unknown")


async def test_an_id_that_never_was_a_message_is_known_as_such_once_the_journal_is_projected(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the message may be in what is missing."""
    monkeypatch.setattr("shard_worker.readmodel.thread_queries._BEHIND_S", 0.1)
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    thread_id = new_thread(SHARD)
    events, _ = history(random.Random(1), events=5, greatest=5)
    await writer.write(thread_id, *events)
    query = GetMessageWindow(thread_id, BOB, 10, Side.AROUND, message_id())
    async with both_sources(dsn, folded(events)) as (owner, read_model):
        assert await read_model.answer(query) == await owner.ask(query) == MessageLocation(None, len(events))
        await writer.write(thread_id, MemberIdsJoined(adder_id=ANN, member_ids=(ANN,), at=9, create_at=9))
        behind = await read_model.answer(query)
        assert isinstance(behind, Unavailable)
        assert behind.code == "read-model-behind"
    await connection.close()
