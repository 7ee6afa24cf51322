"""Actors and what they read of the journal: histories that heal, pages that end, memory that is kept."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from shard_worker.actors.passivation import weight_of
from shard_worker.contract import (
    AccountIdPage,
    Done,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    MessagePage,
    MessageView,
    ReadThread,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.commands import AddMessages, CreateThread, JoinMemberIds, LeaveMemberIds, NewMessage
from shard_worker.domain.ids import AccountId, ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.gateway.public import responses
from shard_worker.journal.loader import Poisoned, Recovered
from tests.support.loop_turns import measured_turns
from tests.support.node import SHARDS, Node, account, add, create, message_id, node_on, read_alone, thread
from tests.support.polling import eventually

ALL = range(SHARDS)
PAGE = 1 << 20


def is_poisoned(answer: object) -> bool:
    """Whether clients hear that the history cannot be read."""
    return isinstance(answer, Unavailable) and answer.code is UnavailableCode.THREAD_POISONED


async def snapshot_at(node: Node, chat: ThreadId, seq_nr: int) -> None:
    """Wait until the thread's snapshot is at least there."""
    sql = "SELECT coalesce(max(seq_nr), 0) FROM snapshot WHERE thread_id = $1"

    async def is_there() -> bool:
        return int(await node.admin.fetchval(sql, ulid_uuid(chat))) >= seq_nr

    await eventually(is_there)


async def test_a_repaired_history_heals_without_a_restart(dsn: str) -> None:
    """It is read again once the `Retry-After` of the verdict is over, not before."""
    now = [0.0]
    async with node_on(dsn, clock=lambda: now[0]) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.ask(add(chat, me, "one"))
        payload = await node.admin.fetchval("SELECT payload FROM journal WHERE seq_nr = 2")
        await node.admin.execute("UPDATE journal SET payload = '{' WHERE seq_nr = 2")
        await node.own(*ALL)
        verdict = await node.ask(ReadThread(chat, me))
        assert is_poisoned(verdict)
        assert isinstance(verdict, Unavailable)
        await node.admin.execute("UPDATE journal SET payload = $1 WHERE seq_nr = 2", payload)
        now[0] = verdict.retry_after_s - 1
        assert is_poisoned(await node.ask(add(chat, me, "two")))
        now[0] = verdict.retry_after_s + 1
        assert isinstance(await node.ask(add(chat, me, "two")), Done)
        assert await node.texts(chat, me) == ["one", "two"]


async def test_a_history_that_is_still_bad_is_judged_again(dsn: str) -> None:
    """The verdict has a new time to expire, and the journal is not read for every request."""
    now = [0.0]
    async with node_on(dsn, clock=lambda: now[0]) as node:
        await node.own(*ALL)
        loads = 0

        async def bad(shard_id: ShardId, thread_id: ThreadId) -> Poisoned:
            nonlocal loads
            loads += 1
            return Poisoned("bad")

        node.env.journal.load = bad
        me, chat = account(), thread()
        for at, expected in ((0, 1), (29, 1), (31, 2), (32, 2), (60, 2), (62, 3)):
            now[0] = float(at)
            assert is_poisoned(await node.ask(ReadThread(chat, me)))
            assert loads == expected


@pytest.mark.parametrize(
    "damage",
    ["UPDATE journal SET payload = '{' WHERE seq_nr = 2", "DELETE FROM journal WHERE seq_nr = 2"],
    ids=["unreadable", "missing"],
)
async def test_an_unreadable_event_below_a_snapshot_is_reported_at_once(dsn: str, damage: str) -> None:
    """By a page that needs its text and by a repeated key; what does not need the event is served."""
    async with node_on(dsn, snapshot_every_events=3) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        keyed = add(chat, me, "keyed")
        assert isinstance(await node.ask(keyed, "key"), Done)
        await node.ask(add(chat, me, "last"))
        await snapshot_at(node, chat, 3)
        await node.own(*ALL)
        await node.admin.execute(damage)
        assert isinstance(await node.ask(ReadThread(chat, me)), ThreadView)
        assert is_poisoned(await node.ask(GetMessages(chat, me, 10)))
        page = await node.ask(GetMessages(chat, me, 10, after=(2, 0)))
        assert isinstance(page, MessagePage)
        assert [message.text for message in page.messages] == ["last"]
        if damage.startswith("UPDATE"):
            assert is_poisoned(await node.ask(keyed, "key"))
        assert isinstance(await node.ask(add(chat, me, "more")), Done)


async def test_absent_threads_do_not_stay_in_memory(dsn: str) -> None:
    """Neither reads nor refused commands leave an actor behind; a created thread stays."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me = account()
        for number in range(20):
            refusal = await (
                node.ask(ReadThread(thread(), me)) if number % 2 else node.ask(add(thread(), me, "x"), "k")
            )
            assert isinstance(refusal, Refusal)
            assert refusal.code is RefusalCode.THREAD_NOT_FOUND
        assert (len(node.residents), node.env.memory.used) == (0, 0)
        assert not any(shard.actors for shard in node.table.shards.values())
        chat = thread()
        await node.ask(create(chat, me), "key")
        assert len(node.residents) == 1


async def test_resident_threads_keep_the_memory_budget(dsn: str) -> None:
    """The least recently asked leave by bytes; every thread is served, and nothing is counted twice."""
    async with node_on(dsn, memory_bytes=60_000) as node:
        await node.own(*ALL)
        me, chats = account(), [thread() for _ in range(12)]
        for chat in chats:
            await node.ask(create(chat, me))
            await node.ask(
                AddMessages(chat, me, tuple(NewMessage(message_id(), "x" * 50, None, ()) for _ in range(30)), 1)
            )
            assert node.residents.bytes <= 60_000 + 17_000
        assert 1 <= len(node.residents) < len(chats)
        assert node.env.memory.used == node.residents.bytes
        for chat in chats:
            assert len(await node.texts(chat, me)) == 30
            assert node.residents.bytes <= 60_000 + 17_000
        actor = next(iter(node.residents._actors.values()))
        assert actor.weight == weight_of(actor.state)
        node.host.drop_all()
        assert node.env.memory.used == 0


async def test_prepared_threads_take_a_part_of_the_budget(dsn: str) -> None:
    """Threads beyond the limit stay cold; an adopted or an aborted shard gives the bytes back."""
    async with node_on(dsn, memory_bytes=40_000) as node:
        await node.own(*ALL)
        me = account()
        chats = [chat for chat in (thread() for _ in range(60)) if shard_of(chat, SHARDS) == 3]
        for chat in chats:
            await node.ask(create(chat, me))
        node.host.drop_all()
        warmth = node.host._warmth
        assert await warmth.prepare(ShardId(3), chats, 10.0)
        assert 0 < warmth.bytes <= 10_000
        assert node.env.memory.used == warmth.bytes
        taken = warmth.take(ShardId(3), len(chats))
        assert len(taken) == min(len(chats), 3)
        assert (warmth.bytes, node.env.memory.used) == (0, 0)
        assert await warmth.prepare(ShardId(3), chats, 10.0)
        assert await warmth.prepare(ShardId(3), chats[:1], 10.0)
        warmth.forget_all()
        assert node.env.memory.used == 0


async def test_a_page_of_messages_is_at_most_a_megabyte(dsn: str) -> None:
    """Ids and addressees included, as the gateway writes it; the cursor's position goes on, and nothing is left out."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        crowd = tuple(account() for _ in range(1000))
        posted: list[str] = []
        for _ in range(3):
            messages = [NewMessage(message_id(), "\U0001f600" * 500, None, crowd) for _ in range(12)]
            messages += [NewMessage(message_id(), '"\n\\' * 900, None, ()) for _ in range(12)]
            posted += [message.message_id for message in messages]
            assert isinstance(await node.ask(AddMessages(chat, me, tuple(messages), 1)), Done)
        seen: list[MessageView] = []
        sizes: list[int] = []
        after: tuple[int, int] | None = None
        with measured_turns() as turns:
            while True:
                page = await node.ask(GetMessages(chat, me, 1000, after=after))
                assert isinstance(page, MessagePage)
                seen += page.messages
                sizes.append(len(responses.messages(chat, page, "c" * 80)))
                if not page.more:
                    break
                after = (page.messages[-1].sequence_nr, page.messages[-1].index)
        assert [message.message_id for message in seen] == posted
        assert max(sizes) <= PAGE
        largest = len(responses.messages(chat, MessagePage(tuple(seen[:1]), False), None))
        assert min(sizes[:-1]) > PAGE - largest - 600, "a page ends only where the next message does not fit"
        assert turns.longest_s < 0.05, turns


async def test_snapshots_are_taken_by_bytes_too(dsn: str) -> None:
    """A few large events are a history that is slow to read."""
    async with node_on(dsn, snapshot_every_bytes=100_000) as node:
        taken: list[int] = []

        def save(shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
            taken.append(seq_nr)

        node.env.journal.save_snapshot = save
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        for _ in range(9):
            await node.ask(add(chat, me, *["w" * 4000] * 10))
        assert taken == [4, 7, 10]


async def test_few_states_are_encoded_at_once(dsn: str) -> None:
    """A snapshot that finds the allowance of this moment used up is taken with a later event."""
    async with node_on(dsn, snapshot_every_events=1) as node:
        taken: list[int] = []

        def save(shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
            taken.append(seq_nr)

        node.env.journal.save_snapshot = save
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        before = len(taken)
        node.env.snapshot_allowance = 0
        asking = [asyncio.ensure_future(node.ask(add(chat, me, "x"))) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.gather(*asking)
        assert len(taken) - before <= 1
        await eventually(lambda: node.env.snapshot_allowance > 0, what="the next sweep")
        await node.ask(add(chat, me, "y"))
        assert taken[-1] == 5


async def test_pages_of_accounts_follow_every_change(dsn: str) -> None:
    """Sorted once for many pages, and again after a change."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        members = [account() for _ in range(20)]
        await node.ask(CreateThread(chat, me, "title", None, None, True, (me,), tuple(members[:10]), 1))

        async def listed() -> list[AccountId]:
            found: list[AccountId] = []
            while True:
                page = await node.ask(GetMemberIds(chat, me, 3, after=found[-1] if found else None))
                assert isinstance(page, AccountIdPage)
                found += page.account_ids
                if not page.more:
                    return found

        assert await listed() == sorted(members[:10])
        await node.ask(JoinMemberIds(chat, me, tuple(members[10:]), 1))
        assert await listed() == sorted(members)
        await node.ask(LeaveMemberIds(chat, me, tuple(members[:5]), 1))
        assert await listed() == sorted(members[5:])
        assert await node.ask(GetAdministratorIds(chat, me, 3)) == AccountIdPage((me,), False, 3, 1)


async def test_a_long_load_outlives_the_requests_that_wait_for_it(dsn: str) -> None:
    """Each request is refused in its budget, the history is read once, and nothing waits in vain in memory."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.own(*ALL)
        gate = asyncio.Event()
        loads = 0
        load = node.env.journal.load

        async def long(shard_id: ShardId, thread_id: ThreadId) -> Recovered | Poisoned:
            nonlocal loads
            loads += 1
            await gate.wait()
            return await load(shard_id, thread_id)

        node.env.journal.load = long
        for _ in range(3):
            answer = await node.ask(add(chat, me, "refused"), budget_s=0.05)
            assert isinstance(answer, Unavailable)
            assert answer.code is UnavailableCode.SHARD_UNAVAILABLE
        actor = node.table.shards[shard_of(chat, SHARDS)].actors[chat]
        assert len(actor.mailbox) <= 1
        waiting = asyncio.ensure_future(node.ask(add(chat, me, "stored"), budget_s=10.0))
        gate.set()
        assert await waiting == Done(2, (await waiting).message_ids, epoch=2)  # type: ignore[union-attr]  # it is Done
        assert loads == 1
        assert await node.texts(chat, me) == ["stored"]


async def test_a_join_costs_what_it_adds(dsn: str) -> None:
    """Whatever the thread holds: with ten thousand members no turn of it comes near a millisecond's tenfold."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        crowd = [account() for _ in range(9_900)]
        await node.ask(CreateThread(chat, me, "title", None, None, True, (me,), tuple(crowd[:1000]), 1))
        for at in range(1000, 9_900, 1000):
            assert isinstance(await node.ask(JoinMemberIds(chat, me, tuple(crowd[at : at + 1000]), 1)), Done)
        with measured_turns() as turns:
            for _ in range(50):
                assert isinstance(await node.ask(JoinMemberIds(chat, me, (account(),), 1)), Done)
        assert turns.longest_s < 0.01, turns


async def test_the_database_is_away_while_texts_are_read(dsn: str) -> None:
    """A fault of the link is tried again within the budget; it is no verdict on the history."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.ask(add(chat, me, "one"))
        read, failures = node.env.journal.read_messages, 2

        async def failing(*args: object, **kwargs: object) -> object:
            nonlocal failures
            if failures:
                failures -= 1
                raise asyncpg.PostgresConnectionError("away")
            return await read(*args, **kwargs)  # type: ignore[arg-type]  # passed through as it came

        node.env.journal.read_messages = failing  # type: ignore[assignment]  # gives what it gets
        node.env.journal.read_page = read_alone
        assert await node.texts(chat, me) == ["one"]
