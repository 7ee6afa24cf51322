"""Queries of the read model on big tables: none reads a big table as a whole, each is fast, and unread counts are right."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles
from time import perf_counter
from typing import NamedTuple, TypeVar

import asyncpg
import pytest

from shard_worker.contract import (
    AccountIdPage,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    MessagePage,
    Query,
)
from shard_worker.domain.ids import AccountId, ThreadId, ulid_text, ulid_uuid
from shard_worker.domain.message_window import Side
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import SET_UP, QuerySources
from tests.readmodel.big_tables import GATE, SOAK, Size, account_of, fill, message_of, special
from tests.readmodel.statements import RecordingPool, nodes_of, plan_of
from tests.support.journal_writer import ANN

T = TypeVar("T")
BIG = {"thread", "thread_account", "thread_message", "thread_mention", "read_marker", "journal"}
MOST_MS = 10.0
MOST_MS_OF = {"threads of an account in old ones": 15.0}
"""None of its 5,000 threads is among those of the newest messages, so that each of them is looked up."""
_NAIVE_SQL = """
SELECT least(100, count(*)) FROM readmodel_1.thread_message m
  LEFT JOIN read_marker r ON r.thread_id = m.thread_id AND r.account_id = $2
 WHERE m.thread_id = $1 AND NOT m.removed AND m.sender_id <> $2
   AND (r.sequence_nr IS NULL OR (m.sequence_nr, m.index) > (r.sequence_nr, r.index))
"""
_NAIVE_LIST_SQL = """
SELECT thread_id, activity_at FROM readmodel_1.thread_account JOIN readmodel_1.thread USING (thread_id)
 WHERE account_id = $1 ORDER BY activity_at DESC, thread_id DESC
"""


class Asked(NamedTuple):
    """A query, and the indexes that it may use."""

    ask: Callable[[], Awaitable[object]]
    indexes: set[str]


class BigModel:
    """The queries that are looked at, on filled tables."""

    def __init__(self, connection: asyncpg.Connection, size: Size) -> None:
        self.connection = connection
        self.pool = RecordingPool(connection)
        self.queries = ReadModelQueries(QuerySources(self.pool), MarkerWriter(self.pool))
        self._size = size
        self.after: tuple[int, ThreadId] | None = None
        self.after_old: tuple[int, ThreadId] | None = None
        self.mention: tuple[int, ThreadId, int, int] | None = None

    async def prepare(self) -> None:
        """Find out where deep pages begin."""
        self.after = await self._after(ANN)
        self.after_old = await self._after(account_of("old"))
        [found] = (await self.queries.mentions(ANN, 1, self._size.messages // 400, None)).mentions
        self.mention = found.message.created_at, found.thread_id, found.message.sequence_nr, found.message.index

    async def _after(self, account: AccountId) -> tuple[int, ThreadId]:
        """Of an account in a twentieth of the threads, the one that ends the first four fifths of its list."""
        [listed] = (await self.queries.threads(account, 1, self._size.threads // 20 * 4 // 5, None)).threads
        return listed.activity_at, listed.view.thread_id

    def _one(self, query: Query) -> Callable[[], Awaitable[object]]:
        return lambda: self.queries.answer(query)

    def asked(self) -> dict[str, Asked]:
        """By name, every query."""
        queries, many = self.queries, self._size.special
        own, removed, old, every = special("own"), special("removed"), account_of("old"), account_of("every")
        thread = {"thread_pkey", "thread_account_reader"}
        live = "thread_message_live"
        page, members = {*thread, live}, {*thread, "thread_account_thread"}
        threads = {*thread, live, "thread_activity", "read_marker_pkey"}
        mentions = {*thread, live, "thread_mention_pkey"}
        window = {*page, "thread_message_removed", "journal_pkey"}
        found: dict[str, Asked] = {
            "threads, first page": Asked(lambda: queries.threads(ANN, 100, 0, None), threads),
            "threads, deep page": Asked(lambda: queries.threads(ANN, 100, 0, self.after), threads),
            "threads, by offset": Asked(lambda: queries.threads(ANN, 100, 500, None), threads),
            "threads of an account in few": Asked(lambda: queries.threads(account_of(7), 100, 0, None), threads),
            "threads of an account in old ones": Asked(lambda: queries.threads(old, 100, 0, None), threads),
            "threads of an account in old ones, deep page": Asked(
                lambda: queries.threads(old, 100, 0, self.after_old), threads
            ),
            "threads of an account in every one": Asked(lambda: queries.threads(every, 100, 0, None), threads),
            "threads of an account in every one, deep page": Asked(
                lambda: queries.threads(every, 100, 0, self.after), threads
            ),
            "mentions, first page": Asked(lambda: queries.mentions(ANN, 100, 0, None), mentions),
            "mentions, deep page": Asked(lambda: queries.mentions(ANN, 100, 0, self.mention), mentions),
            "messages": Asked(self._one(GetMessages(own, ANN, 100)), page),
            "messages, deep page": Asked(self._one(GetMessages(own, ANN, 100, 0, (many - 50, 0))), page),
            "members": Asked(self._one(GetMemberIds(special("people"), ANN, 100)), members),
            "administrators": Asked(
                self._one(GetAdministratorIds(special("people"), ANN, 100)), {*thread, "thread_account_administrator"}
            ),
            "members, deep page": Asked(
                self._one(GetMemberIds(special("people"), ANN, 100, 0, account_of(3))), members
            ),
        }
        for side in Side:
            for name, thread_id, number in (("own", own, many // 2), ("removed", removed, many * 5 + 3)):
                query = GetMessageWindow(thread_id, ANN, 100, side, message_of(name, number))
                found[f"messages {side} one, thread {name!r}"] = Asked(self._one(query), window)
        return found


@asynccontextmanager
async def big_model(dsn: str, size: Size) -> AsyncIterator[BigModel]:
    """Filled tables, and the queries on them."""
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    await fill(connection, size)
    await connection.execute(SET_UP)
    model = BigModel(connection, size)
    await model.prepare()
    yield model
    await connection.close()


async def assert_plans(model: BigModel) -> None:
    """Each statement uses its indexes, and reads no big table as a whole, as the sessions of queries are set up."""
    for name, asked in model.asked().items():
        model.pool.session.asked.clear()
        await asked.ask()
        used: set[str] = set()
        for sql, arguments in model.pool.session.asked:
            nodes = nodes_of(await plan_of(model.connection, sql, arguments))
            scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
            assert not scanned & BIG, name
            used |= {node["Index Name"] for node in nodes if "Index Name" in node}
        assert used - {"dead_letter_pkey", "dead_letter_shard", "pg_class_oid_index"} == asked.indexes, name


async def assert_lists(model: BigModel) -> None:
    """Pages by cursor and by offset are those of a plain sort of all threads of the account."""
    for account in (ANN, account_of(7), account_of("old"), account_of("every")):
        plain = [
            (row["activity_at"], ThreadId(ulid_text(row["thread_id"].bytes)))
            for row in await model.connection.fetch(_NAIVE_LIST_SQL, ulid_uuid(account))
        ]
        for limit in (5, 100):
            for offset in {0, 3, len(plain) // 3, max(len(plain) - limit, 0), max(len(plain) - 2, 0)}:
                after = plain[offset - 1] if offset else None
                for page in (
                    await model.queries.threads(account, limit, offset, None),
                    await model.queries.threads(account, limit, 0, after),
                ):
                    found = [(each.activity_at, each.view.thread_id) for each in page.threads]
                    assert found == plain[offset : offset + limit], (account, limit, offset)
                    assert page.more == (offset + limit < len(plain))


async def assert_unread(model: BigModel, account: AccountId) -> dict[ThreadId, int]:
    """Every count of an account's list is that of a plain count; by thread."""
    page = await model.queries.threads(account, 1000, 0, None)
    counts = {each.view.thread_id: each.unread_count for each in page.threads}
    for thread_id, count in counts.items():
        naive = await model.connection.fetchval(_NAIVE_SQL, ulid_uuid(thread_id), ulid_uuid(account))
        assert count == naive, thread_id
    return counts


async def test_no_query_reads_a_big_table_as_a_whole(dsn: str) -> None:
    """On tables that are large enough for their indexes to pay; and unread counts are right."""
    async with big_model(dsn, GATE) as model:
        await assert_plans(model)
        await assert_lists(model)
        counts = await assert_unread(model, ANN)
        assert [counts[special(name)] for name in ("own", "marked", "crowd", "removed")] == [0, 0, 0, 100]
        await assert_unread(model, account_of(7))
        people = await model.queries.answer(GetMemberIds(special("people"), ANN, 1000))
        assert isinstance(people, AccountIdPage)
        assert len(people.account_ids) == 1000


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_queries_on_a_million_messages(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The p99 of each is at most 10 ms, but for `MOST_MS_OF`; prints them."""
    async with big_model(dsn, SOAK) as model:
        await assert_plans(model)
        await assert_lists(model)
        await assert_unread(model, ANN)
        figures: dict[str, float] = {}
        for name, asked in model.asked().items():
            took: list[float] = []
            for _ in range(300):
                began = perf_counter()
                page = await asked.ask()
                took.append((perf_counter() - began) * 1000)
            assert not isinstance(page, MessagePage) or page.messages
            figures[name] = quantiles(took, n=100)[98]
            with capsys.disabled():
                print(f"\n{name}: p50 {quantiles(took, n=2)[0]:.1f} ms, p99 {figures[name]:.1f} ms", end="")
        assert not {name: took for name, took in figures.items() if took > MOST_MS_OF.get(name, MOST_MS)}
