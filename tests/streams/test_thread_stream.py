"""One thread's stream at its owner: where it begins, what it shows, and when it ends."""

import asyncpg
import pytest

from shard_worker.domain.commands import DestroyThread, JoinMemberIds, LeaveMemberIds
from shard_worker.domain.ids import ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.streams import history
from shard_worker.streams.access import PastAccess, Roles
from tests.streams.rig import streams_on
from tests.support.node import SHARDS, account, create, node_on, thread
from tests.support.polling import eventually
from tests.support.problem_checks import check


async def test_a_stream_begins_now_or_at_a_position_and_misses_nothing(dsn: str) -> None:
    """Live, from the journal, and from the one into the other; one that is left leaves nothing behind."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "b", "c")
        now = await streams.follow(chat, me)
        past = [await streams.follow(chat, me, after) for after in ("0", "0.9", "1", "1.1", "2.1", "3.1")]
        by_parameter = await streams.follow(chat, me, lastEventId="2", after="1")
        await streams.add(chat, me, "d", "e")
        assert await now.until("5.1") == ["3.1", "4.1", "5.1"]
        for listening, first in zip(past, ("0", "0", "1.1", "1.1", "2.1", "3.1"), strict=True):
            every = ["0", "1.1", "2.1", "3.1", "4.1", "5.1"]
            assert await listening.until("5.1") == every[every.index(first) :]
        assert await by_parameter.until("5.1") == ["2.1", "3.1", "4.1", "5.1"]
        assert past[0].types == ["ThreadCreated", *["MessagesAdded"] * 4]
        assert past[0].events[2].json["messages"][0]["text"] == "b"
        assert past[0].events[2].json | {"messages": []} == {
            "threadId": chat,
            "sequenceNr": 2,
            "epoch": 1,
            "senderId": me,
            "messages": [],
            "at": past[0].events[2].json["at"],
            "createAt": 1,
        }
        assert streams.hub.followed_threads == 1
        for listening in (now, *past, by_parameter):
            listening.leave()
        await streams.settled()


async def test_access_is_that_of_the_moment_of_each_event(dsn: str) -> None:
    """The event that lets the account in is the first, the one that ends its access the last; also when it is in again."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, guest, chat = account(), account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "before")
        await streams.do(JoinMemberIds(chat, me, (guest,), 1))  # 3
        await streams.add(chat, me, "seen")
        live = await streams.follow(chat, guest)
        await streams.do(LeaveMemberIds(chat, me, (guest,), 1))  # 5
        assert await live.end() == ["MemberIdsLeft"]
        check(await streams.refused(chat, guest), 404, "thread-not-found")
        check(await streams.refused(chat, guest, "&after=5.1"), 404, "thread-not-found")
        check(await streams.refused(chat, guest, "&after=99"), 404, "thread-not-found")
        left = await streams.follow(chat, guest, "0")
        assert await left.end() == ["MemberIdsJoined", "MessagesAdded", "MemberIdsLeft"]
        assert (await streams.follow(chat, guest, "4")).ids[:1] == ["4.1"]
        await streams.add(chat, me, "not seen")
        await streams.do(JoinMemberIds(chat, me, (guest,), 1))  # 7
        ended = await streams.follow(chat, guest, "3.1")
        assert await ended.end() == ["MessagesAdded", "MemberIdsLeft"]
        again = await streams.follow(chat, guest, ended.ids[-1])
        assert await again.until("7.1") == ["5.1", "7.1"]
        check(await streams.refused(chat, account()), 404, "thread-not-found")
        check(await streams.refused(thread(), me), 404, "thread-not-found")
        again.leave()
        await streams.settled()


async def test_what_came_while_an_account_was_out_is_not_shown_to_it(dsn: str) -> None:
    """Also when the feed has it at hand, and when another account comes in between."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, guest, other, chat = account(), account(), account(), thread()
        await streams.do(create(chat, me))
        mine = await streams.follow(chat, me)
        await eventually(lambda: all(each.live for each in streams.hub._followers), what="a live stream")
        await streams.do(JoinMemberIds(chat, me, (guest,), 1))  # 2
        await streams.do(LeaveMemberIds(chat, me, (guest,), 1))  # 3
        await streams.add(chat, me, "private")  # 4
        await streams.do(JoinMemberIds(chat, me, (other,), 1))  # 5
        await streams.add(chat, me, "private")  # 6
        await streams.do(JoinMemberIds(chat, me, (guest,), 1))  # 7
        await streams.add(chat, me, "seen")  # 8
        await mine.until("8.1")
        back, late = await streams.follow(chat, guest, "3.1"), await streams.follow(chat, other, "4.1")
        assert await back.until("8.1") == ["3.1", "7.1", "8.1"]
        assert await late.until("8.1") == ["4.1", "5.1", "6.1", "7.1", "8.1"]
        await streams.add(chat, me, "seen")
        assert (await back.until("9.1"))[-2:] == ["8.1", "9.1"]


async def test_access_in_the_past_is_read_in_small_parts(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded in rows and in bytes; a part that takes too long is tried again over fewer events."""
    monkeypatch.setattr(history, "_JOINS_ROWS", 2)
    monkeypatch.setattr(history, "_SPAN_LEAST", 1)
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, guest, chat = account(), account(), thread()
        await streams.do(create(chat, me))
        for _ in range(4):
            await streams.do(JoinMemberIds(chat, me, (guest,), 1))
            await streams.do(LeaveMemberIds(chat, me, (guest,), 1))
        reads = streams.hub.history
        fetched: list[int] = []
        fetch = reads._fetch

        async def slow(sql: str, *parameters: object) -> list[asyncpg.Record]:
            if sql in (history._NEWEST_FIRST_SQL, history._OLDEST_FIRST_SQL):
                first, last = parameters[2:4]
                if last - first > span:  # type: ignore[operator]  # numbers
                    raise TimeoutError
                fetched.append(len(found := await fetch(sql, *parameters)))
                return found
            return await fetch(sql, *parameters)

        monkeypatch.setattr(reads, "_fetch", slow)
        for span in (20_000, 3):  # noqa: B007  # read by `slow`
            for last in range(1, 10):
                present, destroyed = await reads.present_access(chat, guest, last)
                assert (present.member, destroyed) == (last % 2 == 0, False)
                for first in range(last):
                    past = await reads.past_access(chat, guest, PastAccess(present), (first, last))
                    assert past.roles.member == (first > 0 and first % 2 == 0)
            assert max(fetched) <= 2
        monkeypatch.setattr(history, "_JOINS_BYTES", 1)
        fetched.clear()
        assert (await reads.past_access(chat, guest, PastAccess(Roles()), (0, 9))).let_in
        assert max(fetched) == 1


async def test_a_destroyed_thread_is_replayed_to_its_end(dsn: str) -> None:
    """And a live stream ends with it; at the end 204, beyond it one reset."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        live = await streams.follow(chat, me)
        await streams.do(DestroyThread(chat, me, 1))
        assert await live.end() == ["ThreadDestroyed"]
        assert await (await streams.follow(chat, me, "1.1")).end() == ["ThreadDestroyed"]
        over = await streams.refused(chat, me, "&after=2.1")
        assert (over.status, over.body) == (204, b"")
        beyond = await streams.follow(chat, me, "3.1")
        assert await beyond.end() == ["reset"]
        assert beyond.ids == ["2.1"]
        check(await streams.refused(chat, me), 410, "thread-destroyed")
        check(await streams.refused(chat, account(), "&after=2.1"), 404, "thread-not-found")
        await streams.settled()


@pytest.mark.parametrize("after", ["9", "9.1", "2.7"], ids=["beyond", "beyond-with-epoch", "other-epoch"])
async def test_a_position_that_the_history_does_not_hold_gets_one_reset(dsn: str, after: str) -> None:
    """And the stream goes on from the thread's head."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "b", "c")
        listening = await streams.follow(chat, me, after)
        await streams.add(chat, me, "d")
        assert await listening.until("4.1") == ["3.1", "4.1"]
        assert listening.types == ["reset", "MessagesAdded"]
        assert listening.events[0].json == {"threadId": chat, "sequenceNr": 3, "epoch": 1}


async def test_open_streams_get_a_reset_for_a_tail_that_a_fail_over_lost(dsn: str) -> None:
    """One reset each, then what is there now; the journal may have grown beyond the lost numbers."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "b", "lost", "lost too")
        open_ = [await streams.follow(chat, me, after) for after in ("", "1.1")]
        for listening in open_:
            await listening.until("4.1")
        shard = shard_of(chat, SHARDS)
        await lose_tail(node.admin, chat, shard, above=2)
        await node.own(shard)
        for listening in open_:
            await eventually(lambda each=listening: "reset" in each.types, what="a reset")  # type: ignore[misc]  # mypy infers no default
        await streams.add(chat, me, "new", "newer", "newest")
        for listening in open_:
            ids = await listening.until("5.2")
            assert ids[-4:] == ["2.1", "3.2", "4.2", "5.2"]
            assert listening.types.count("reset") == 1


async def lose_tail(admin: object, chat: ThreadId, shard: ShardId, *, above: int) -> None:
    """Lose a thread's newest events as a fail-over does."""
    await admin.execute(  # type: ignore[attr-defined]  # a connection
        "DELETE FROM journal WHERE shard_id = $1 AND thread_id = $2 AND seq_nr > $3", shard, ulid_uuid(chat), above
    )


async def test_a_history_that_cannot_be_read_is_an_error_event(dsn: str) -> None:
    """On a stream that is open, and on one that opens."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "b", "c")
        await node.admin.execute("UPDATE journal SET event_type = 99 WHERE seq_nr = 2")
        behind = await streams.follow(chat, me, "1.1")
        assert await behind.end() == ["error"]
        assert behind.events[-1].json["code"] == "thread-poisoned"
        shard = shard_of(chat, SHARDS)
        await node.own(shard)  # nothing of the thread is in memory any more
        opens = await streams.follow(chat, me)
        assert await opens.end() == ["error"]
        assert opens.events[0].json["status"] == 503
