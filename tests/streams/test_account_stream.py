"""An account's stream at one worker: where it begins, what it shows, what it resumes, and what access means to it."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from shard_worker.domain.commands import CreateThread, DestroyThread, JoinMemberIds, LeaveMemberIds
from shard_worker.domain.ids import AccountId, ThreadId, shard_of, ulid_uuid
from tests.streams.rig import Listening, Streams, streams_on
from tests.support.node import SHARDS, account, create, node_on, thread
from tests.support.polling import eventually
from tests.support.problem_checks import check


async def _settled(streams: Streams, *listening: Listening) -> None:
    for each in listening:
        each.leave()
    await streams.settled()


async def test_a_stream_shows_every_thread_of_the_account_live(dsn: str) -> None:
    """Those that it could read before, and those that it comes to read; from now on, and no others."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, other, old, new, foreign = account(), account(), thread(), thread(), thread()
        await streams.do(create(old, me))
        await streams.add(old, me, "before")
        await streams.do(create(foreign, other))
        live = await streams.follow_account(me)
        assert live.events[0].type == ""
        assert 0 < len(live.events[0].id) <= 64
        await streams.add(old, me, "seen")
        await streams.do(create(new, me))
        await streams.add(foreign, other, "not seen")
        await streams.do(JoinMemberIds(foreign, other, (me,), 1))  # 3
        await streams.add(foreign, other, "seen")  # 4
        await streams.do(LeaveMemberIds(foreign, other, (me,), 1))  # 5
        await streams.add(foreign, other, "not seen")
        await streams.do(DestroyThread(new, me, 1))
        await streams.add(old, me, "last")
        assert await live.shows(old, 4) == [3, 4]
        assert await live.shows(new, 2) == [1, 2]
        assert await live.shows(foreign, 5) == [3, 4, 5]
        shown = next(event for event in live.events if event.type == "MessagesAdded")
        assert shown.json["messages"][0]["text"] == "seen"
        assert set(shown.json) == {"threadId", "sequenceNr", "epoch", "senderId", "messages", "at", "createAt"}
        position = await streams.confirmed(live, me)
        assert 0 < len(position) <= 64
        assert not live.stream.ended.done()
        await _settled(streams, live)
        assert streams.hub.accounts.tail.followed == 0


async def test_a_resume_shows_everything_after_its_position(dsn: str) -> None:
    """Threads that ended meanwhile, too; each with what the account could read of it."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, other = account(), account()
        kept, quiet, left, destroyed, joined, flapped = (thread() for _ in range(6))
        for each in (kept, quiet, left, destroyed):
            await streams.do(create(each, other))
            await streams.do(JoinMemberIds(each, other, (me,), 1))  # 2
        for each in (joined, flapped):
            await streams.do(create(each, other))
        live = await streams.follow_account(me)
        await streams.add(kept, other, "a")  # 3
        await live.shows(kept, 3)
        position = await streams.confirmed(live, me)
        live.leave()
        await streams.add(kept, other, "b", "c")  # 4, 5
        await streams.add(left, other, "d")  # 3
        await streams.do(LeaveMemberIds(left, other, (me,), 1))  # 4
        await streams.add(left, other, "not seen")
        await streams.do(DestroyThread(destroyed, other, 1))  # 3
        await streams.add(joined, other, "not seen")  # 2
        await streams.do(JoinMemberIds(joined, other, (me,), 1))  # 3
        await streams.add(joined, other, "e")  # 4
        for _ in range(2):
            await streams.do(JoinMemberIds(flapped, other, (me,), 1))  # 2, 5
            await streams.do(LeaveMemberIds(flapped, other, (me,), 1))  # 3, 6
            await streams.add(flapped, other, "not seen")  # 4, 7
        again = await streams.follow_account(me, position)
        assert again.events[0].id == position
        await streams.add(quiet, other, "f")  # 3
        assert await again.shows(quiet, 3) == [3]
        assert await again.shows(kept, 5) == [4, 5]
        assert await again.shows(left, 4) == [3, 4]
        assert await again.shows(destroyed, 3) == [3]
        assert await again.shows(joined, 4) == [3, 4]
        assert await again.shows(flapped, 6) == [2, 3, 5, 6]
        newest = await streams.confirmed(again, me)
        last = await streams.follow_account(me, lastEventId=newest, after=position)
        await streams.add(quiet, other, "g")  # 4
        assert await last.shows(quiet, 4) == [4]
        assert {thread_id for thread_id, _ in last.seen} == {quiet}
        await _settled(streams, again, last)


async def test_what_is_refused_and_what_is_reset(dsn: str) -> None:
    """A position of another account is 400; one of another history, of the future or of long ago begins with a reset."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me = account()
        live = await streams.follow_account(me)
        position = live.events[0].id
        for bad in (position, "x", "0", "1.1", position + "A"):
            owner = account() if bad == position else me
            answered = await streams.api.get(f"/v1/accounts/{owner}/events?after={bad}")
            check(answered, 400, "validation-failed")
        check(await streams.api.get(f"/v1/accounts/{me}/events", ("Last-Event-ID", "x")), 400, "validation-failed")
        check(await streams.api.get(f"/v1/accounts/{me}/events?account_id={me}"), 400, "validation-failed")
        check(await streams.api.get(f"/v1/accounts/{me}/events?min_sequence_nr=1"), 400, "validation-failed")
        check(await streams.api.get("/v1/accounts/x/events"), 400, "validation-failed")
        check(await streams.api.get(f"/v1/accounts/{me}/events", ("Accept", "text/html")), 406, "not-acceptable")
        empty = await streams.follow_account(me, after="")
        assert empty.events[0].type == ""
        codec = streams.hub.accounts.positions
        given = codec.read(me, position)
        assert given is not None
        for wrong in (
            given._replace(generation="01ARZ3NDEKTSV4RRFFQ69G5FAA"),
            given._replace(xid=given.xid + 1_000_000),
            given._replace(made_at=given.made_at - 90_000),
        ):
            reset = await streams.follow_account(me, codec.write(codec.tag(me), wrong).decode())
            # Positions without an event may follow.
            assert [event.type for event in reset.events if event.type] == ["reset"]
            assert reset.events[0].type == "reset"
            assert reset.events[0].json == {"threadId": None}
            assert codec.read(me, reset.events[0].id) is not None
            reset.leave()
        await _settled(streams, live, empty)


async def test_another_history_resets_an_open_stream(dsn: str) -> None:
    """Once, and then it goes on."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        live = await streams.follow_account(me)
        await streams.add(chat, me, "a")
        await live.shows(chat, 2)
        await node.admin.execute("UPDATE meta SET generation = '01ARZ3NDEKTSV4RRFFQ69G5FAA'")
        await eventually(lambda: "reset" in live.types, what="a reset")
        await eventually(lambda: bool(streams.hub.accounts.tail.followed), what="live again")
        await streams.add(chat, me, "b")
        assert await live.shows(chat, 3) == [2, 3]
        assert live.types.count("reset") == 1
        await _settled(streams, live)


async def test_a_late_commit_is_shown_though_later_ones_were_confirmed(dsn: str) -> None:
    """A writer of the journal holds positions back, and no other transaction does."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, slow, fast = account(), thread(), thread()
        while shard_of(slow, SHARDS) == shard_of(fast, SHARDS):
            fast = thread()
        await streams.do(create(slow, me))
        await streams.do(create(fast, me))
        shard = shard_of(slow, SHARDS)
        connection = await asyncpg.connect(dsn)
        head = await connection.fetchval("SELECT max(shard_seq) FROM journal WHERE shard_id = $1", shard)
        bystander = await asyncpg.connect(dsn)
        await bystander.execute("BEGIN; CREATE TEMPORARY TABLE t (i int); INSERT INTO t VALUES (1)")
        late = connection.transaction()
        await late.start()
        await connection.execute(
            "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)"
            " SELECT shard_id, $2, thread_id, 2, 7, 1, payload, metadata, epoch"
            " FROM (SELECT * FROM journal WHERE shard_id = $1 AND shard_seq = $3) made",
            shard,
            head + 1,
            head,
        )
        written = int(await connection.fetchval("SELECT pg_current_xact_id()::text"))
        live = await streams.follow_account(me)
        codec = streams.hub.accounts.positions
        await streams.add(fast, me, "a")
        await live.shows(fast, 2)
        held = codec.read(me, live.events[-1].id)
        assert held is not None
        assert held.xid <= written
        await late.commit()
        assert await live.shows(slow, 2) == [2]
        now = codec.read(me, await streams.confirmed(live, me))
        assert now is not None
        assert now.xid > written
        resumed = await streams.follow_account(me, codec.write(codec.tag(me), held).decode())
        assert await resumed.shows(slow, 2) == [2]
        assert await resumed.shows(fast, 2) == [2]
        await bystander.close()
        await connection.close()
        await _settled(streams, live, resumed)


async def test_a_list_and_a_stream_after_it_leave_no_gap(dsn: str) -> None:
    """Whatever the projection lacks at the moment of the list: what the list does not show the stream does."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me = account()
        chats = [thread() for _ in range(4)]
        for chat in chats:
            await streams.do(create(chat, me))
        heads = dict.fromkeys(chats, 1)

        async def post() -> None:
            for _ in range(30):
                for chat in chats:
                    await streams.add(chat, me, "x")
                    heads[chat] += 1

        posting = asyncio.create_task(post())
        followed: list[tuple[dict[str, int], Listening]] = []
        while not posting.done():
            answer = (await streams.api.get(f"/v1/threads?account_id={me}")).json
            listed = {each["id"]: each["sequenceNr"] for each in answer["results"]}
            followed.append((listed, await streams.follow_account(me, answer["position"])))
            if len(followed) >= 6:
                break
        await posting
        for listed, listening in followed:
            for chat in chats:
                numbers = await listening.shows(chat, heads[chat])
                assert set(range(listed.get(chat, 0) + 1, heads[chat] + 1)) <= set(numbers)
                assert numbers == sorted(set(numbers)), "in order, and within one stream once"
        await _settled(streams, *[listening for _, listening in followed])


@pytest.mark.parametrize("stopped", [False, True], ids=["projected", "projection-stopped"])
async def test_a_stream_opens_though_the_projection_has_stopped(
    dsn: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it reads the journal beyond the projection."""
    monkeypatch.setattr("shard_worker.streams.account_catching_up._PROJECTED_S", 0.1)
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, other = account(), account()
        old, new, left, gone = (thread() for _ in range(4))
        for each in (old, left, gone):
            await streams.do(create(each, other))
            await streams.do(JoinMemberIds(each, other, (me,), 1))
        position = (await streams.api.get(f"/v1/threads?account_id={me}")).json["position"]
        if stopped:
            for shard in range(SHARDS):
                node.env.projection.close_shard(shard)  # type: ignore[arg-type]  # a plain number will do
        await streams.add(old, other, "a")  # 3
        await streams.do(CreateThread(new, other, "t", None, None, True, (other,), (me,), 1))
        await streams.do(LeaveMemberIds(left, other, (me,), 1))  # 3
        await streams.do(DestroyThread(gone, other, 1))  # 3
        resumed = await streams.follow_account(me, position)
        assert (await resumed.shows(old, 3))[-1] == 3
        assert await resumed.shows(new, 1) == [1]
        assert (await resumed.shows(left, 3))[-1] == 3
        assert (await resumed.shows(gone, 3))[-1] == 3
        await streams.add(new, other, "b")
        await streams.add(left, other, "not seen")
        await streams.add(old, other, "c")
        assert await resumed.shows(new, 2) == [1, 2]
        assert (await resumed.shows(old, 4))[-2:] == [3, 4]
        assert resumed.of(left)[-1] == 3
        await _settled(streams, resumed)


async def test_a_poisoned_thread_is_an_error_and_the_stream_goes_on(dsn: str) -> None:
    """Live and at a resume; nothing of the thread follows."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, bad, good = account(), thread(), thread()
        while shard_of(good, SHARDS) == shard_of(bad, SHARDS):  # the owner of the bad one's shard is behind the journal
            good = thread()
        await streams.do(create(bad, me))
        await streams.do(create(good, me))
        live = await streams.follow_account(me)
        await _poison(node.admin, bad)
        node.env.projection.advance(shard_of(bad, SHARDS), 1_000, (), 1, None)  # as the owner that wrote it would
        await eventually(lambda: "error" in live.types, what="an error")
        error = next(event for event in live.events if event.type == "error")
        assert error.json["threadId"] == bad
        assert error.json["code"] == "thread-poisoned"
        await streams.add(good, me, "a")
        assert await live.shows(good, 2) == [2]
        await eventually(_buried(node.admin), what="a dead letter")
        resumed = await streams.follow_account(me)
        await eventually(lambda: "error" in resumed.types, what="an error")
        await streams.add(good, me, "b")
        assert await resumed.shows(good, 3) == [3]
        assert live.types.count("error") == 1
        await _settled(streams, live, resumed)


def _buried(connection: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    async def buried() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM dead_letter"))

    return buried


async def _poison(connection: asyncpg.Connection, thread_id: ThreadId) -> None:
    shard = shard_of(thread_id, SHARDS)
    await connection.execute(
        "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)"
        " SELECT $1, max(shard_seq) + 1, $2, 2, 99, 1, '{}', '{}', max(epoch) FROM journal WHERE shard_id = $1",
        shard,
        ulid_uuid(thread_id),
    )


async def test_an_account_has_as_many_streams_as_it_may(dsn: str) -> None:
    """Of threads and of the account together."""
    async with node_on(dsn) as node, streams_on(node, dsn, account=2) as streams:
        await node.own(*range(SHARDS))
        me: AccountId = account()
        open_ones = [await streams.follow_account(me) for _ in range(2)]
        check(await streams.api.get(f"/v1/accounts/{me}/events"), 503, "too-many-streams")
        await _settled(streams, *open_ones)
