"""Shards that change their owner, planned and forced, between memberships with played hosts."""

import asyncio
from collections import Counter

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.view import Load
from tests.support.members import EVERY, SHARDS, Member, member
from tests.support.polling import eventually

S3 = ShardId(3)


async def settle(a: Member, *others: Member) -> None:
    """Every shard is with ``a``, and all know each other to be alive."""
    await a.target(*[(shard, "a") for shard in range(SHARDS)])
    await eventually(lambda: a.shards == EVERY)
    names = {each.ownership.worker for each in (a, *others)}
    for each in (a, *others):
        await eventually(lambda each=each: names <= set(each.ownership.view.workers))  # type: ignore[misc]  # bound now


async def kinds(dsn: str, shard: int = 3) -> list[tuple[str, str | None, str | None]]:
    """How a shard changed its owner, in order: kind, from whom, to whom."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT kind, source, worker FROM shard_epoch WHERE shard_id = $1 ORDER BY epoch", shard
    )
    await connection.close()
    return [tuple(row) for row in rows]


async def test_a_planned_move_is_prepared_drained_transferred_and_notified(dsn: str) -> None:
    """In this order; the shard is never without an owner, and the pause is kept."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        a.host.steps.clear()
        await b.target((3, "b"))
        await eventually(lambda: b.shards == {S3} and ("tell", S3) in a.host.steps)
        assert a.host.steps == [("prepare", S3), ("release", S3), ("drop for b", S3), ("tell", S3)]
        assert ("catch up", S3) in b.host.steps
        assert (await kinds(dsn))[-1] == ("handoff", "a", "b")
        assert a.ownership.owner_of(S3) is not None
        assert a.ownership.owner_of(S3).worker == "b"  # type: ignore[union-attr]  # as above
        connection = await asyncpg.connect(dsn)
        pause = "SELECT pause_ms FROM shard_epoch WHERE shard_id = 3 AND kind = 'handoff'"

        async def is_recorded() -> bool:
            return await connection.fetchval(pause) is not None

        await eventually(is_recorded)
        await connection.close()


async def test_a_notification_for_another_incarnation_is_not_served(dsn: str) -> None:
    """Nor a notification without a head; both are checked in the database, which does not confirm them."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        b.ownership.on_transferred(S3, 9, "an earlier one", 0)
        b.ownership.on_transferred(S3, 9, b.ownership.incarnation, None)
        await b.ownership.refresh()
        assert not b.shards


async def test_what_was_given_up_is_not_served_when_the_telling_comes_late(dsn: str) -> None:
    """The notification has the epoch at which it was released again."""
    async with member(dsn, "a") as a:
        await settle(a)
        epoch = a.ownership.view.shards[S3].epoch
        await a.ownership.leave()
        assert not a.shards
        a.ownership.on_transferred(S3, epoch, a.ownership.incarnation, 0)
        await a.ownership.refresh()
        assert not a.shards


async def test_a_shard_that_does_not_drain_is_served_on_and_moved_later(dsn: str) -> None:
    """The handoff is given up within its deadline, and begun again."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        a.host.stuck = asyncio.Event()
        await b.target((3, "b"))
        await eventually(lambda: ("resume", S3) in a.host.steps)
        assert a.host.serving() >= {S3}
        assert not b.shards
        a.host.stuck.set()
        await eventually(lambda: b.shards == {S3})


async def test_a_shard_is_not_transferred_to_an_unreachable_worker(dsn: str) -> None:
    """While the target does not answer the owner serves on; when it does, the shard moves."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        there = a.host.peers.pop("b")
        await b.target((3, "b"))
        await eventually(lambda: Counter(a.host.steps)[("prepare", S3)] >= 2)
        assert a.shards == EVERY
        assert ("release", S3) not in a.host.steps
        a.host.peers["b"] = there
        await eventually(lambda: b.shards == {S3})


async def test_a_lost_message_costs_a_look_and_nothing_else(dsn: str) -> None:
    """The target finds out by itself that it owns the shard."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)

        async def deaf(shard_id: ShardId, receiver: object, head: int | None) -> bool:
            del shard_id, receiver, head
            return False

        a.host.notify_transferred = deaf  # type: ignore[method-assign]  # the message is lost
        await b.target((3, "b"))
        await eventually(lambda: b.shards == {S3})


async def test_a_plan_that_is_taken_back_ends_the_handoff(dsn: str) -> None:
    """A to B to A ends as A."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        a.host.stuck = asyncio.Event()
        await b.target((3, "b"))
        await eventually(lambda: ("release", S3) in a.host.steps)
        await b.target((3, "a"))
        a.host.stuck.set()
        await eventually(lambda: a.shards == EVERY and not b.shards)


async def test_who_leaves_hands_everything_over(dsn: str) -> None:
    """To the others, in equal shares, and without any plan."""
    async with member(dsn, "a") as a, member(dsn, "b") as b, member(dsn, "c") as c:
        await settle(a, b, c)
        async with asyncio.timeout(10):
            await a.ownership.leave()
        await eventually(lambda: b.shards | c.shards == EVERY)
        assert len(b.shards) == len(c.shards) == SHARDS // 2
        for shard in range(SHARDS):
            kind, source, _ = (await kinds(dsn, shard))[-1]
            assert (kind, source) == ("handoff", "a")


async def test_who_leaves_goes_through_with_it_whatever_a_plan_says(dsn: str) -> None:
    """A draining worker is no receiver, so everything is released; it takes it as the last one there is."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        assert await b.ownership.set_cordon("b", cordoned=True, draining=True)
        await a.ownership.refresh()
        async with asyncio.timeout(10):
            await a.ownership.leave()
        assert not b.shards
        assert (await kinds(dsn))[-1][0] == "release"
        await eventually(lambda: b.shards == EVERY)


async def test_the_dead_are_taken_over_by_the_living(dsn: str) -> None:
    """Its session's lock is gone: one survivor fences it, and its shards are shared among all."""
    async with member(dsn, "b") as b, member(dsn, "c") as c, member(dsn, "a") as a:
        await settle(a, b, c)
        loop = asyncio.get_running_loop()
        began = loop.time()
        a.ownership._task.cancel()  # type: ignore[union-attr]  # as kill -9: its sessions end, it says nothing
        await eventually(lambda: b.shards | c.shards == EVERY, within_s=5.0)
        print(f"served again after {loop.time() - began:.2f} s")
        assert len(b.shards) == len(c.shards) == SHARDS // 2
        steps = await kinds(dsn)
        assert [kind for kind, _, _ in steps[-2:]] == ["takeover", "claim"]
        assert sum(kind == "takeover" for kind, _, _ in steps) == 1


async def test_the_silent_are_taken_over_when_their_time_is_over(dsn: str) -> None:
    """An unchanged beat of a live session is waited for longer; the fenced worker goes on as a new incarnation."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        old = a.ownership.incarnation
        a.ownership.lease._beat_s = 60.0  # its beats stop, its session stays
        await eventually(lambda: b.shards == EVERY, within_s=10.0)
        await eventually(lambda: a.ownership.incarnation != old)
        assert a.host.dropped_all >= 1


async def test_how_busy_shards_are_is_known_to_all(dsn: str) -> None:
    """Each owner writes down its own; every worker reads them all."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await settle(a, b)
        await eventually(lambda: b.ownership.view.loads.get(S3) == Load(5.0, 1.0))
        assert len(b.ownership.view.loads) == SHARDS
