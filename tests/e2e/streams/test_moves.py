"""Followers through handoffs, takeovers and restarts of real workers, while commands flow."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.streams.following import Chat, chat_on
from tests.support.worker_processes import Workers, workers_on

NAMES = ("a", "b", "c")


async def test_every_follower_sees_every_event_once_in_order_whatever_moves(dsn: str, tmp_path: Path) -> None:
    """A hundred followers of one thread, and a hundred of twenty."""
    await _scenario(dsn, tmp_path, followers=100, rounds=1)


@pytest.mark.soak
async def test_many_followers_through_many_moves(dsn: str, tmp_path: Path) -> None:
    """A thousand of each, ten rounds."""
    await _scenario(dsn, tmp_path, followers=1_000, rounds=10)


async def _scenario(dsn: str, folder: Path, *, followers: int, rounds: int) -> None:
    async with workers_on(dsn, folder) as workers:
        for name in NAMES:
            workers.add(name).settings["SHARD_WORKER_MAX_STREAMS_PER_ACCOUNT"] = str(4 * followers)
        await workers.start(*NAMES)
        await workers.spread(*NAMES)
        async with chat_on(workers) as chat:
            hot = await chat.create()
            many = [await chat.create() for _ in range(20)]
            await chat.follow(hot, followers)
            for thread_id in many:
                await chat.follow(thread_id, followers // len(many))
            async with asyncio.timeout(60):
                for _, follower in chat.followers:
                    await follower.opened.wait()
            async with chat.posting(hot, every_s=0.03), chat.posting(*many, every_s=0.03):
                await chat.more_acknowledged(20)
                for _ in range(rounds):
                    await _round(workers, chat)
            await chat.verify()
            connects = sum(follower.connects for _, follower in chat.followers)
            print(
                f"{connects} connects, {chat.acknowledged} commands, {sum(map(len, [f.seen for _, f in chat.followers]))} events"
            )
        await workers.fsck()


async def _round(workers: Workers, chat: Chat) -> None:
    # Handoff: every shard goes to another worker.
    await workers.spread("b", "c", "a")
    await chat.more_acknowledged(20)
    # Takeover: one is killed, with the streams that it serves.
    await workers.by_name["b"].kill()
    await workers.served("a", "c")
    await chat.more_acknowledged(20)
    await workers.start("b")
    await workers.spread(*NAMES)
    # Restart: one leaves in order, and says so to its clients.
    workers.by_name["c"].signal(signal.SIGTERM)
    await workers.by_name["c"].ended()
    await chat.more_acknowledged(20)
    await workers.start("c")
    await workers.spread(*NAMES)
    await chat.more_acknowledged(20)
