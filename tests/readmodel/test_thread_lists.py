"""Lists of an account's threads, however they are found, are those of a plain sort: on tables of a random content."""

import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest

from shard_worker.domain.ids import ThreadId, ulid_text, ulid_uuid
from shard_worker.readmodel import queries as statements
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import SET_UP, QuerySources
from tests.readmodel.recording import RecordingPool, nodes_of
from tests.support.journal_writer import ANN

THREADS = 600
SLOT_MS = 300_000


class Access(NamedTuple):
    """A thread that the account may read, by its place in the list."""

    thread_id: ThreadId
    activity_at: int


class Lists:
    """Random tables, and the queries on them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.pool = RecordingPool(connection)
        self.queries = ReadModelQueries(QuerySources(self.pool), MarkerWriter(self.pool))

    async def fill(self, rng: random.Random, *, share: float, slots: int) -> tuple[list[Access], set[ThreadId]]:
        """Write tables in which Ann is in a share of the threads; her list by a plain sort, and the threads that it leaves out."""
        wanted, poisoned = [], set()
        # Few instants, so that threads are equal in them, and more on the borders of slots than elsewhere.
        instants = [
            rng.randrange(slots) * SLOT_MS + rng.choice((0, 1, SLOT_MS - 1, rng.randrange(SLOT_MS)))
            for _ in range(THREADS // 2)
        ]
        threads, accesses, dead = [], [], []
        for _ in range(THREADS):
            uuid, activity_at = UUID(int=rng.getrandbits(128) >> 3), rng.choice(instants)
            thread_id = ThreadId(ulid_text(uuid.bytes))
            destroyed, stopped = rng.random() < 0.1, rng.random() < 0.05
            threads.append((uuid, ulid_uuid(ANN), activity_at, activity_at + 5 if destroyed else None))
            if stopped:
                dead.append((uuid,))
            if rng.random() < share:
                ended = rng.random() < 0.1
                accesses.append((ulid_uuid(ANN), uuid, not ended, 1 if ended else None))
                if stopped and not ended:
                    poisoned.add(thread_id)
                elif not destroyed and not ended:
                    wanted.append(Access(thread_id, activity_at))
        await self.connection.executemany(
            "INSERT INTO readmodel_1.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, title, created_at,"
            " updated_at, activity_at, destroyed_at) VALUES ($1, 0, 1, 1, $2, 't', 1, 1, $3, $4)",
            threads,
        )
        await self.connection.executemany(
            "INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member, until_nr)"
            " VALUES ($1, $2, false, $3, $4)",
            accesses,
        )
        await self.connection.executemany(
            "INSERT INTO dead_letter (generation, shard_id, thread_id, seq_nr, event_type, event_version, reason)"
            " VALUES (1, 0, $1, 2, 1, 1, 'test')",
            dead,
        )
        return sorted(wanted, key=lambda each: (each.activity_at, each.thread_id), reverse=True), poisoned

    async def assert_page(
        self, wanted: list[Access], poisoned: set[ThreadId], limit: int, offset: int, after: Access | None
    ) -> bool:
        """Compare one page with the plain sort; whether all threads were passed, from the newest down, to find it."""
        self.pool.session.asked.clear()
        page = await self.queries.threads(ANN, limit, offset, after and (after.activity_at, after.thread_id))
        begin = offset if after is None else offset + wanted.index(after) + 1
        found = [Access(each.view.thread_id, each.activity_at) for each in page.threads]
        assert found == wanted[begin : begin + limit]
        assert page.more == (begin + limit < len(wanted))
        assert set(page.poisoned) == poisoned
        return await self._walked(*self.pool.session.asked[-1])

    async def _walked(self, sql: str, arguments: tuple[object, ...]) -> bool:
        literals = ", ".join(f"'{each}'" for each in arguments)
        await self.connection.execute(f"PREPARE asked AS {sql}")
        found = await self.connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked({literals})")
        await self.connection.execute("DEALLOCATE asked")
        plan: dict[str, Any] = msgspec.json.decode(found)[0]["Plan"]
        [by_slot] = [node for node in nodes_of(plan) if node.get("Alias") == "taken"]
        return not by_slot["Actual Rows"]


@pytest.fixture
async def lists(dsn: str) -> AsyncIterator[Lists]:
    """Empty tables, and the queries on them as a worker asks them."""
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    yield Lists(connection)
    await connection.close()


WAYS = {
    "as it is": {},
    "always walk": {"_WALK_MOST": 10_000, "_TRIED": THREADS},
    "walk, and look accounts up": {"_WALK_MOST": 10_000, "_TRIED": THREADS, "_HASHED_MOST": 10},
    "walk, and give up": {"_WALK_MOST": 10_000, "_TRIED": THREADS, "_REST_MOST": 0},
    "never walk": {"_TRIED": 0},
}


@pytest.mark.parametrize(("share", "slots"), [(0.02, 300), (0.3, 300), (0.3, 8), (0.9, 300), (0.3, 1), (0.0, 3)])
async def test_pages_are_those_of_a_plain_sort(
    lists: Lists, monkeypatch: pytest.MonkeyPatch, share: float, slots: int
) -> None:
    """Whatever way a list is found in, and whatever was expected of the number of threads.

    Threads that are destroyed, poisoned or left are not in it, ties and the borders of slots are in their order, and pages end
    anywhere within a slot.
    """
    rng = random.Random(f"{share} {slots}")
    wanted, poisoned = await lists.fill(rng, share=share, slots=slots)
    await lists.connection.execute(SET_UP)
    walked: dict[str, set[bool]] = {}
    for counted in (False, True):
        if counted:
            await lists.connection.execute("SET default_transaction_read_only = 'off'")
            await lists.connection.execute("VACUUM ANALYZE")
            await lists.connection.execute(SET_UP)
        for name, constants in WAYS.items():
            with monkeypatch.context() as patch:
                for constant, value in constants.items():
                    patch.setattr(statements, constant, value)
                found = walked.setdefault(name, set())
                for limit in (1, 4, 25, THREADS):
                    found.add(await lists.assert_page(wanted, poisoned, limit, 0, None))
                    found.add(await lists.assert_page(wanted, poisoned, limit, rng.randrange(20), None))
                    for after in rng.sample(wanted, min(4, len(wanted))):
                        found.add(await lists.assert_page(wanted, poisoned, limit, rng.choice((0, 3)), after))
    if share == 0.3 and slots == 300:
        assert walked["as it is"] == walked["always walk"] == walked["walk, and look accounts up"] == {False, True}
        assert walked["never walk"] == {False}
