"""Region, shard and actor together, on a real journal."""

import asyncio
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from shard_worker.actors.thread_actor import Phase
from shard_worker.contract import Done, ReadThread, ThreadView, Unavailable, UnavailableCode
from shard_worker.domain.ids import ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.journal.loader import Poisoned, Recovered
from shard_worker.ownership.view import ShardOwner
from tests.support.node import SHARDS, Peers, account, add, create, node_on, request, thread
from tests.support.polling import eventually

ALL = range(SHARDS)


async def test_a_thread_is_created_posted_to_and_read(dsn: str) -> None:
    """The shortest whole path: create, add, read, each answered by the owner."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        assert await node.ask(create(chat, me)) == Done(1, epoch=1)
        added = await node.ask(add(chat, me, "hello", "again"))
        assert isinstance(added, Done)
        assert added.sequence_nr == 2
        assert await node.texts(chat, me) == ["hello", "again"]


async def test_a_hot_thread_does_not_wait_for_each_commit(dsn: str) -> None:
    """Five hundred commands of one thread at once: every one stored in order, in far fewer batches."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        answers = await asyncio.gather(*[node.ask(add(chat, me, f"m{n}")) for n in range(500)])
        assert [answer.sequence_nr for answer in answers if isinstance(answer, Done)] == list(range(2, 502))
        assert node.appender.metrics.batches < 20
        assert await node.texts(chat, me) == [f"m{n}" for n in range(500)]


async def test_what_was_answered_survives_forgetting(dsn: str) -> None:
    """A shard that was dropped and adopted again serves what was acknowledged, from snapshot and tail."""
    async with node_on(dsn, snapshot_every_events=10) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        for n in range(25):
            await node.ask(add(chat, me, f"m{n}"))
        saved = "SELECT count(*) FROM snapshot"
        async with asyncio.timeout(5):
            while not await node.admin.fetchval(saved):  # the database has no event to wait for
                await asyncio.sleep(0)
        await node.own(*ALL)
        assert await node.texts(chat, me) == [f"m{n}" for n in range(25)]
        assert isinstance(await node.ask(add(chat, me, "more")), Done)


async def test_a_big_thread_is_kept_more_seldom(dsn: str) -> None:
    """The distance between two snapshots grows with the thread, so that their cost an event does not."""
    async with node_on(dsn, snapshot_every_events=2) as node:
        taken: list[int] = []
        keep = node.env.journal.save_snapshot

        def save(shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
            taken.append(seq_nr)
            keep(shard_id, thread_uuid, seq_nr, state, event_metadata)

        node.env.journal.save_snapshot = save
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        for n in range(66):
            await node.ask(add(chat, me, f"m{n}"))
        assert taken == [2, 4, 6, 10, 18, 34, 66]


async def test_one_key_has_one_effect_and_one_answer(dsn: str) -> None:
    """Twenty identical keyed requests at once, and one after everything was forgotten, are one."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        command = add(chat, me, "once")
        answers = await asyncio.gather(*[node.ask(command, "key") for _ in range(20)])
        await node.own(*ALL)
        late = await node.ask(command, "key")
        first, *others = sorted([*answers, late], key=lambda answer: isinstance(answer, Done) and answer.replayed)
        assert first == Done(2, (command.messages[0].message_id,), epoch=1)
        assert {repr(answer) for answer in others} == {repr(replace(first, replayed=True))}
        assert await node.texts(chat, me) == ["once"]


async def test_a_forgotten_key_with_fresh_message_ids_is_still_recognised(dsn: str) -> None:
    """A retry with new message ids is decided as new, refused by the index, and answered as stored."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        first = await node.ask(add(chat, me, "once"), "key")
        await node.own(*ALL)
        neighbours = [node.ask(add(chat, me, f"n{n}")) for n in range(5)]
        again, *others = await asyncio.gather(node.ask(add(chat, me, "once"), "key"), *neighbours)
        assert isinstance(first, Done)
        assert again == replace(first, replayed=True)
        assert all(isinstance(other, Done) for other in others)
        assert sorted(text or "" for text in await node.texts(chat, me)) == ["n0", "n1", "n2", "n3", "n4", "once"]


async def test_many_forgotten_keys_at_once_cost_one_reading_of_their_thread(dsn: str) -> None:
    """As after a takeover, when every client sends again: the first refusal has all the other keys looked up."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        first = [await node.ask(add(chat, me, f"m{n}"), f"k{n}") for n in range(12)]
        await node.own(*ALL)
        loads = 0
        load = node.env.journal.load

        async def counted(shard_id: ShardId, thread_id: ThreadId) -> Recovered | Poisoned:
            nonlocal loads
            loads += 1
            return await load(shard_id, thread_id)

        node.env.journal.load = counted
        again = await asyncio.gather(*[node.ask(add(chat, me, f"m{n}"), f"k{n}") for n in range(12)])
        assert again == [replace(answer, replayed=True) for answer in first if isinstance(answer, Done)]
        assert loads == 2, "once because it was asked, once because a key was refused"
        assert len(await node.texts(chat, me)) == 12


async def test_a_key_used_for_something_else_is_refused(dsn: str) -> None:
    """Known from memory or from the journal, the answer is the same."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.ask(add(chat, me, "one"), "key")
        for _ in range(2):
            answer = await node.ask(add(chat, me, "two"), "key")
            assert isinstance(answer, Refusal)
            assert answer.code is RefusalCode.IDEMPOTENCY_KEY_REUSED
            await node.own(*ALL)


async def test_a_retry_after_the_thread_was_destroyed_gets_its_first_answer(dsn: str) -> None:
    """The key is looked at before the thread's state is."""
    from shard_worker.domain.commands import DestroyThread

    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        command = add(chat, me, "one")
        first = await node.ask(command, "key")
        await node.ask(DestroyThread(chat, me, 1))
        await node.own(*ALL)
        assert isinstance(first, Done)
        assert await node.ask(command, "key") == replace(first, replayed=True)
        gone = await node.ask(command, "other")
        assert isinstance(gone, Refusal)
        assert gone.code is RefusalCode.THREAD_DESTROYED


async def test_an_undecodable_thread_is_poisoned_alone(dsn: str) -> None:
    """Its commands get a definite answer at once; its neighbour in the same shard does not notice."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, bad = account(), thread()
        good = next(t for t in iter(thread, None) if shard_of(t, SHARDS) == shard_of(bad, SHARDS))
        await node.ask(create(bad, me))
        await node.ask(create(good, me))
        await node.admin.execute("UPDATE journal SET event_type = 99 WHERE thread_id = $1", ulid_uuid(bad))
        await node.own(*ALL)
        answer = await node.ask(add(bad, me, "x"))
        assert isinstance(answer, Unavailable)
        assert answer.code is UnavailableCode.THREAD_POISONED
        assert isinstance(await node.ask(add(good, me, "x")), Done)


async def test_a_bug_in_a_rule_concerns_its_own_thread(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that breaks evolve is answered, the thread is loaded again, and goes on."""
    from shard_worker.actors import thread_actor

    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        with monkeypatch.context() as patch:
            patch.setattr(thread_actor, "evolve", lambda *_: 1 / 0)
            answer = await node.ask(add(chat, me, "x"))
        assert isinstance(answer, Unavailable)
        assert await node.ask(add(chat, me, "y")) != answer
        assert await node.texts(chat, me) == ["y"]


async def test_idle_threads_leave_and_come_back(dsn: str) -> None:
    """Beyond the resident limit the least recently asked goes; asked again, it is there."""
    async with node_on(dsn, residents_most=3) as node:
        await node.own(*ALL)
        me = account()
        chats = [thread() for _ in range(10)]
        for chat in chats:
            await node.ask(create(chat, me))
        assert len(node.residents) == 3
        assert isinstance(await node.ask(ReadThread(chats[0], me)), ThreadView)
        node.residents._idle_s = -1.0  # the clock is the test's
        node.residents.sweep()
        assert len(node.residents) == 0


async def test_too_much_at_once_is_refused_not_queued(dsn: str) -> None:
    """Beyond the bound the answer is `overloaded`, and nothing of it is stored."""
    async with node_on(dsn, max_pending_per_thread=50) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        answers = await asyncio.gather(*[node.ask(add(chat, me, f"m{n}")) for n in range(200)])
        refused = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert refused
        assert {answer.code for answer in refused} == {UnavailableCode.OVERLOADED}
        assert len(await node.texts(chat, me)) == len(answers) - len(refused)


async def test_without_a_certain_lease_nothing_is_answered_from_memory(dsn: str) -> None:
    """Reads wait for the lease within their budget; a stored command needs none, for the fence proved the ownership."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        node.lease[0] = False
        read = await node.ask(ReadThread(chat, me), budget_s=0.2)
        assert isinstance(read, Unavailable)
        assert isinstance(await node.ask(add(chat, me, "x")), Done)
        waiting = asyncio.ensure_future(node.ask(ReadThread(chat, me)))
        await eventually(lambda: not waiting.done())
        node.lease[0] = True
        assert isinstance(await waiting, ThreadView)


async def test_a_request_on_the_wrong_worker_is_answered_by_the_owner(dsn: str) -> None:
    """Both workers give one answer; the client cannot see which owns the shard."""
    peers = Peers()
    async with node_on(dsn, name="w0", peers=peers) as left, node_on(dsn, name="w1", peers=peers) as right:
        peers.handlers = {1: left.handler, 2: right.handler}
        await left.own(*ALL)
        for shard in ALL:
            right.owners.records[shard] = ShardOwner("w0", left.incarnation, 1, "127.0.0.1", 0, 1)
        me, chat = account(), thread()
        assert await right.ask(create(chat, me)) == Done(1, epoch=1)
        assert isinstance(await right.ask(add(chat, me, "x")), Done)
        assert await left.texts(chat, me) == await right.texts(chat, me) == ["x"]


async def test_a_moving_shard_delays_and_loses_nothing(dsn: str) -> None:
    """Commands that come while a shard moves wait for the next owner, and are stored once, in one history."""
    peers = Peers()
    async with node_on(dsn, name="w0", peers=peers) as left, node_on(dsn, name="w1", peers=peers) as right:
        peers.handlers = {1: left.handler, 2: right.handler}
        await left.own(*ALL)
        me, chat = account(), thread()
        shard = shard_of(chat, SHARDS)
        await left.ask(create(chat, me))
        asks = [asyncio.ensure_future(left.ask(add(chat, me, f"a{n}"), f"a{n}")) for n in range(50)]
        await asyncio.sleep(0)
        release = asyncio.ensure_future(left.host.drain(shard))
        asks += [asyncio.ensure_future(left.ask(add(chat, me, f"b{n}"), f"b{n}")) for n in range(50)]
        await release
        await right.own(shard)
        left.owners.records[shard] = ShardOwner("w1", right.incarnation, 9, "127.0.0.1", 0, 2)
        left.host.drop(shard)
        answers = await asyncio.gather(*asks)
        assert all(isinstance(answer, Done) for answer in answers)
        assert len(await right.texts(chat, me)) == 100


async def test_the_last_worker_to_leave_refuses_waiting_requests(dsn: str) -> None:
    """Without another owner, waiting requests are refused at once, and nothing of them is stored."""
    async with node_on(dsn) as node:
        waiting = asyncio.ensure_future(node.ask(create(thread(), account())))
        await eventually(lambda: node.owners.change is not None)
        node.owners.no_worker_stays = True
        node.owners.announce()
        async with asyncio.timeout(1.0):
            answer = await waiting
        assert isinstance(answer, Unavailable)
        assert answer.code is UnavailableCode.SHARD_UNAVAILABLE


async def test_a_fenced_worker_stores_nothing_more(dsn: str) -> None:
    """When another incarnation took the shard, commands are sent on and no row of the old one appears."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.admin.execute("UPDATE shard SET epoch = epoch + 1, owner = 'x', incarnation = 'other'")
        answer = await node.ask(add(chat, me, "x"), budget_s=0.5)
        assert isinstance(answer, Unavailable)
        assert answer.code is UnavailableCode.SHARD_UNAVAILABLE
        assert await node.admin.fetchval("SELECT count(*) FROM journal") == 1


async def test_a_database_that_goes_away_for_a_while_loses_nothing(dsn: str) -> None:
    """All sessions are killed under load: every command gets a true answer, none is stored twice."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me = account()
        chats = [thread() for _ in range(8)]
        for chat in chats:
            await node.ask(create(chat, me))

        async def post(chat: ThreadId, n: int) -> bool:
            return isinstance(await node.ask(add(chat, me, f"m{n}"), f"k{n}"), Done)

        asks = [asyncio.ensure_future(post(chat, n)) for n in range(100) for chat in chats]
        killer = await asyncpg.connect(dsn)
        for _ in range(3):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE '%fence AS MATERIALIZED%' AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0)
        await killer.close()
        assert all(await asyncio.gather(*asks))
        for chat in chats:
            assert len(await node.texts(chat, me)) == 100


async def test_an_actor_is_not_evicted_while_it_is_busy(dsn: str) -> None:
    """A thread with events on their way stays; with every place busy, a new thread is refused as overloaded."""
    async with node_on(dsn, residents_most=1) as node:
        await node.own(*ALL)
        me, first, second = account(), thread(), thread()
        one, two = await asyncio.gather(node.ask(create(first, me)), node.ask(create(second, me)))
        assert one == Done(1, epoch=1)
        assert isinstance(two, Unavailable)
        assert await node.ask(create(second, me)) == Done(1, epoch=1)
        assert node.table.shards[shard_of(second, SHARDS)].actors[second].phase is Phase.ACTIVE


def test_a_request_names_its_key_and_body() -> None:
    """The helper's hashes differ by key and by body, as the gateway's do."""
    me, chat = account(), thread()
    command = add(chat, me, "x")
    assert request(command, "a").key_hash != request(command, "b").key_hash
    assert request(add(chat, me, "x"), "a").body_hash != request(add(chat, me, "y"), "a").body_hash


async def test_a_retry_is_answered_with_the_epoch_that_its_event_got(dsn: str) -> None:
    """Which may change while it waits: an unknown outcome raises it before the event is sent again."""
    async with node_on(dsn, watchdog_s=0.5) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        lock = await asyncpg.connect(dsn)
        try:
            async with lock.transaction():
                await lock.execute("LOCK TABLE journal IN ACCESS EXCLUSIVE MODE")
                first = request(add(chat, me, "x"), "key")
                one = asyncio.ensure_future(node.region.ask(first, 15.0))
                await eventually(lambda: node.env.admitted == 1, what="an event on its way")
                again = replace(first, command_id=bytes(16))
                two = asyncio.ensure_future(node.region.ask(again, 15.0))
                async with asyncio.timeout(10):
                    while not await node.admin.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
                    ):
                        await asyncio.sleep(0)
            done, retried = await one, await two
        finally:
            await lock.close()
        assert isinstance(done, Done)
        assert done.epoch > 1
        assert retried == replace(done, replayed=True)
        assert await node.admin.fetchval("SELECT epoch FROM journal WHERE seq_nr = 2") == done.epoch
