"""Fail-overs of a real pair under clients that post; after each everything that was acknowledged is accounted for."""

import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from shard_worker.database.connection import Database, DatabaseUnreachable
from shard_worker.database.migration import migrate
from tests.e2e.failover.following import Followers, following
from tests.e2e.failover.pair import Node, Pair, running_pair
from tests.e2e.failover.posting import ACCOUNT, Posts, posting
from tests.support.polling import eventually
from tests.support.worker_processes import Workers, workers_on

NAMES = ("a", "b", "c")
SHARDS = 8
SERVED_S = 3.0
"""How long after a promotion every shard takes commands again, at most."""

_END_SESSIONS_SQL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND length(application_name) = 26 AND pid <> pg_backend_pid()
"""
_WORKER_SESSIONS_SQL = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND length(application_name) = 26
"""


class Harness:
    """Workers on a pair, and the clients that post."""

    def __init__(self, pair: Pair, workers: Workers, posts: Posts, followers: Followers, dsn_file: Path) -> None:
        self.pair = pair
        self.workers = workers
        self.posts = posts
        self.followers = followers
        self._dsn_file = dsn_file
        self._alarms_seen: set[str] = set()
        self.figures: list[tuple[str, float, int]] = []

    def use(self, dsn: str) -> None:
        """The DSN that workers read at their next connection."""
        self._dsn_file.write_text(dsn)

    def alarms(self) -> set[int]:
        """The shards of the alarms since the last call."""
        lines = set(self.workers.logged('"acknowledged-lost"'))
        found = [json.loads(line) for line in lines - self._alarms_seen]
        self._alarms_seen = lines
        assert all(line["alarm"] and line["from_seq"] <= line["to_seq"] for line in found)
        return {line["shard"] for line in found}

    async def served_again(self, name: str) -> None:
        """Every thread has a command of after the promotion acknowledged, in time."""
        took_s = await self.posts.everywhere()
        self.figures.append((name, took_s, self.posts.count))
        print(f"{name}: every shard acknowledged again {took_s:.2f} s after the promotion")

    async def account(self) -> set[int]:
        """Every thread is readable, the journal proves itself, and alarms say just what was lost, as do the open streams; the shards
        that lost.
        """
        async with self.posts.held():
            lost = await self.posts.lost()
            shards = {self.posts.shard(thread_id) for thread_id in lost}
            alarms = self.alarms()
            assert alarms == shards, f"alarms for {sorted(alarms)}, lost in {sorted(shards)}"
            await self.followers.verify(self.pair)
            await self.workers.fsck()
        print(f"  lost {sum(map(len, lost.values()))} acknowledged messages in shards {sorted(shards)}; alarms agree")
        return shards

    async def settled(self) -> None:
        """A standby follows, every worker runs, and every shard is served."""
        pair = self.pair
        await pair.attach_standby()
        self.use(pair.dsn)
        await self.workers.start(*[name for name in NAMES if not self.workers.by_name[name].alive])
        await self.workers.served(*NAMES)
        await self.posts.more(30)
        await pair.replicated()


Round = Callable[[Harness], Awaitable[None]]


async def asynchronous_with_a_lost_tail(harness: Harness) -> None:
    """The tail holds messages, a handoff, a takeover with its fence, and a registration; all of it is lost."""
    pair, workers, posts = harness.pair, harness.workers, harness.posts
    await harness.settled()
    pair.stream.stall(up=False)
    owners = await workers.owners()
    await workers.move({0: "b" if owners[0] != "b" else "a"})
    await workers.by_name["c"].kill()
    await workers.served("a", "b")
    await workers.start("c")
    await posts.more(60)
    await pair.primary.kill()
    standby_as_dsn = Database(pair.standby.dsn, application_name=lambda: "standby as DSN")
    with pytest.raises(DatabaseUnreachable, match="standby"):
        await standby_as_dsn.connect_once("lease")
    await pair.promote()
    posts.mark()
    (await standby_as_dsn.connect("lease")).terminate()
    pair.switch()
    await harness.served_again("asynchronous, a tail lost")
    assert await harness.account(), "the tail was not lost"


async def synchronous(harness: Harness) -> None:
    """Commits wait for the standby: nothing is lost, and nothing is reported as lost."""
    pair, posts = harness.pair, harness.posts
    await harness.settled()
    await pair.synchronous()
    await posts.more(60)
    await pair.primary.kill()
    await pair.promote()
    posts.mark()
    pair.switch()
    await harness.served_again("synchronous")
    assert not await harness.account()


async def frozen_and_coming_back(harness: Harness) -> None:
    """The old primary goes on after the promotion: it takes no append, and is refused when the address leads to it."""
    pair, posts = harness.pair, harness.posts
    await harness.settled()
    await posts.more(40)
    old = pair.primary
    old.signal(signal.SIGSTOP)
    await pair.promote()
    posts.mark()
    pair.switch()
    await harness.served_again("frozen")
    old.signal(signal.SIGCONT)
    async with _no_append_on(harness, old):
        await posts.more(40)
        pair.address.lead_to("127.0.0.1", old.server.port)
        refused = len(harness.workers.logged("DatabaseSuperseded"))
        await pair.primary.sql(_END_SESSIONS_SQL)
        await eventually(lambda: len(harness.workers.logged("DatabaseSuperseded")) > refused, within_s=20)
    posts.mark()
    pair.switch()
    await posts.everywhere()
    await harness.account()


async def two_hosts_in_one_dsn(harness: Harness) -> None:
    """The other host is found without a change of the DSN; the old primary comes back as one and is passed over."""
    pair, posts, workers = harness.pair, harness.posts, harness.workers
    await harness.settled()
    harness.use(pair.dsn_of_both)
    await pair.primary.sql(_END_SESSIONS_SQL)
    await posts.more(60)
    old = pair.primary
    await old.kill()
    await pair.promote()
    posts.mark()
    await harness.served_again("two hosts in one DSN")
    await old.server.start()
    async with _no_append_on(harness, old):
        await workers.by_name["a"].kill()
        await workers.start("a")
        await _refuses_the_old_primary(workers, old)
        await pair.primary.sql(_END_SESSIONS_SQL)
        posts.mark()
        await posts.everywhere()
    await harness.account()


async def _refuses_the_old_primary(workers: Workers, old: Node) -> None:
    """A worker that was started beside the old primary alone learns from its peers that it was replaced."""
    await workers.start("d", dsn=old.dsn)
    newcomer = workers.by_name["d"]
    await eventually(lambda: "DatabaseSuperseded" in newcomer.log.read_text(), within_s=30)
    assert not await old.sql("SELECT count(*) FROM worker WHERE id = 'd'")
    await newcomer.kill()
    newcomer.log.write_text("")


@asynccontextmanager
async def _no_append_on(harness: Harness, old: Node) -> AsyncIterator[None]:
    """Within the block the old primary stores nothing, once the sessions that it had are gone."""
    connection = await asyncpg.connect(old.dsn)
    try:
        deadline = time.monotonic() + 15
        while await connection.fetchval(_WORKER_SESSIONS_SQL):
            assert time.monotonic() < deadline, "workers still have sessions on the old primary"
        before = await connection.fetchval("SELECT count(*) FROM journal")
        yield
        assert await connection.fetchval("SELECT count(*) FROM journal") == before, "the old primary stored something"
    finally:
        connection.terminate()
    del harness


ROUNDS: tuple[Round, ...] = (asynchronous_with_a_lost_tail, synchronous, frozen_and_coming_back, two_hosts_in_one_dsn)


@asynccontextmanager
async def harness_on(folder: Path) -> AsyncIterator[Harness]:
    """Three workers on a pair, and clients."""
    async with running_pair(folder / "pair") as pair:
        await migrate(pair.primary.dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
        async with (
            workers_on(pair.dsn, folder / "workers", *NAMES, shards=SHARDS) as workers,
            posting(workers.url, SHARDS) as posts,
            following(workers, ACCOUNT, list(posts.acknowledged)) as followers,
        ):
            yield Harness(pair, workers, posts, followers, folder / "workers" / "dsn")
