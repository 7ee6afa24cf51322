"""Pages of messages that are read together, from a real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import asyncpg
import pytest
from msgspec.structs import replace

from shard_worker.database.connection import Database, ReadPool
from shard_worker.domain.events import Event, MessagesAdded, PostedMessage
from shard_worker.domain.ids import MessageId, ShardId, ThreadId, ulid_uuid
from shard_worker.domain.thread import LiveMessage
from shard_worker.journal.page_reader import PageReader
from tests.support.journal_writer import ANN, JournalWriter, created, folded, message_id, new_thread

Answer = list[PostedMessage] | None
Pages = list[tuple[MessageId, LiveMessage]]


@dataclass
class Chats:
    """Threads of three messages each, and what their pages brought."""

    connection: asyncpg.Connection
    pool: ReadPool
    reader: PageReader
    threads: list[tuple[ThreadId, ShardId, Pages, list[PostedMessage]]] = field(default_factory=list)

    async def post(self, count: int) -> None:
        pen = JournalWriter(self.connection)
        for number in range(count):
            thread = new_thread()
            posted = [PostedMessage(message_id(), f"{number}: {word} é\n") for word in ("one", "two", "three")]
            events: list[Event] = [
                created(),
                MessagesAdded(sender_id=ANN, messages=tuple(posted[:2]), at=2, create_at=2),
                MessagesAdded(sender_id=ANN, messages=tuple(posted[2:]), at=2, create_at=2),
            ]
            shard = await pen.write(thread, *events)
            self.threads.append((thread, shard, list(folded(events).messages.items()), posted))

    def ask(
        self, number: int, places: Pages | None = None, wanted: Callable[[], bool] = lambda: True
    ) -> "asyncio.Future[Answer]":
        thread, shard, known, _ = self.threads[number]
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.reader.read(shard, ulid_uuid(thread), known if places is None else places, wanted, found.set_result)
        return found

    def posted(self, number: int) -> list[PostedMessage]:
        return self.threads[number][3]


@pytest.fixture
async def chats(dsn: str) -> AsyncIterator[Chats]:
    """A reader of its own pool."""
    connection = await asyncpg.connect(dsn)
    pool = await Database(dsn, application_name=lambda: "test").pool(most=3)
    found = Chats(connection, pool, PageReader(pool))
    yield found
    await found.reader.close()
    pool.terminate()
    await connection.close()


async def test_pages_that_are_asked_for_in_one_turn_are_read_by_one_statement(chats: Chats) -> None:
    """Of several threads and of one, in whatever order their places are."""
    await chats.post(5)
    pages = [chats.ask(number) for number in range(5)]
    backwards = chats.ask(2, chats.threads[2][2][::-1])
    assert [await page for page in pages] == [chats.posted(number) for number in range(5)]
    assert await backwards == chats.posted(2)[::-1]
    assert (chats.reader.statements, chats.reader.pages) == (1, 6)


async def test_pages_that_come_while_statements_run_join_the_next(chats: Chats) -> None:
    """Two run at most: of many pages that come one by one each statement reads some."""
    await chats.post(1)
    pages = []
    for _ in range(200):
        pages.append(chats.ask(0))
        await asyncio.sleep(0)
    assert [await page for page in pages] == [chats.posted(0)] * 200
    assert chats.reader.statements <= 100


async def test_a_page_with_a_wrong_place_is_left_to_the_reader_of_single_pages(chats: Chats) -> None:
    """As is one of unknown places; the others of its statement are read."""
    await chats.post(2)
    (first, live), *others = chats.threads[0][2]
    wrong = [
        [(first, replace(live, offset=live.offset + 1)), *others],
        [(message_id(), live), *others],
        [(first, replace(live, sequence_nr=99)), *others],
        [(first, replace(live, sequence_nr=1)), *others],
        [(first, replace(live, size=0)), *others],
    ]
    pages = [chats.ask(0, places) for places in wrong]
    sound = chats.ask(1)
    assert [await page for page in pages] == [None] * len(wrong)
    assert await sound == chats.posted(1)


async def test_a_page_that_is_not_wanted_any_more_is_not_read(chats: Chats) -> None:
    """The statement begins a turn after the page was asked for, or much later."""
    await chats.post(2)
    over = chats.ask(0, wanted=lambda: False)
    assert await chats.ask(1) == chats.posted(1)
    assert not over.done()
    assert chats.reader.pages == 1


async def test_when_the_database_does_not_answer_each_page_is_read_by_itself(chats: Chats) -> None:
    """That reader tries again within the budget of its request; a page that comes later is read with others again."""
    await chats.post(2)
    await chats.connection.execute("ALTER TABLE journal RENAME TO lost")
    assert [await chats.ask(number) for number in range(2)] == [None, None]
    await chats.connection.execute("ALTER TABLE lost RENAME TO journal")
    chats.pool.terminate()
    assert await chats.ask(0) is None


async def test_a_page_of_more_than_a_statement_reads_is_whole(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are those of a group: each has at least one page."""
    await chats.post(3)
    monkeypatch.setattr("shard_worker.journal.page_reader._GROUP_MESSAGES", 4)
    monkeypatch.setattr("shard_worker.journal.page_reader._TURN_MESSAGES", 1)
    pages = [chats.ask(number) for number in range(3)]
    assert [await page for page in pages] == [chats.posted(number) for number in range(3)]
    assert chats.reader.statements == 2


async def test_after_the_end_no_page_is_read(chats: Chats) -> None:
    """The requests were redirected by their shards."""
    await chats.post(1)
    page = chats.ask(0)
    await chats.reader.close()
    await asyncio.sleep(0.05)
    assert not page.done()


async def test_a_page_whose_making_fails_is_read_by_itself(chats: Chats) -> None:
    """So are those behind it in the statement: each request is answered, or ends with its own fault."""
    await chats.post(3)
    thread, shard, listed, _ = chats.threads[0]
    given: list[Answer] = []

    def breaks_once(messages: Answer) -> None:
        given.append(messages)
        if len(given) == 1:
            raise RuntimeError("a bug")

    chats.reader.read(shard, ulid_uuid(thread), listed, lambda: True, breaks_once)
    assert [await page for page in [chats.ask(1), chats.ask(2)]] == [None, None]
    assert given == [chats.posted(0), None]
    assert await chats.ask(1) == chats.posted(1)
