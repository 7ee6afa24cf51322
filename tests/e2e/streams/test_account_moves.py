"""Accounts' streams through handoffs, takeovers and restarts of real workers, while commands flow."""

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.streams.following import ADA, Chat, chat_on
from tests.support.load.account_follower import AccountFollower
from tests.support.worker_processes import Workers, workers_on

NAMES = ("a", "b", "c")


async def test_an_account_sees_every_event_of_its_threads_whatever_moves(dsn: str, tmp_path: Path) -> None:
    """A few streams, and a few that begin with a list."""
    await _scenario(dsn, tmp_path, followers=6, rounds=1)


@pytest.mark.soak
async def test_many_streams_of_an_account_through_many_moves(dsn: str, tmp_path: Path) -> None:
    """A hundred streams, ten rounds."""
    await _scenario(dsn, tmp_path, followers=100, rounds=10)


async def _scenario(dsn: str, folder: Path, *, followers: int, rounds: int) -> None:
    async with workers_on(dsn, folder) as workers:
        for name in NAMES:
            workers.add(name).settings["SHARD_WORKER_MAX_STREAMS_PER_ACCOUNT"] = str(4 * followers)
        await workers.start(*NAMES)
        await workers.spread(*NAMES)
        async with chat_on(workers) as chat:
            following: list[AccountFollower] = []
            try:
                # From before the first thread, so that every event is of the stream.
                for turn in range(followers):
                    following.append(AccountFollower(lambda: workers.urls, ADA, turn=turn))
                    following[-1].start()
                async with asyncio.timeout(60):
                    for follower in following:
                        await follower.opened.wait()
                threads = [await chat.create() for _ in range(12)]
                async with chat.posting(*threads, every_s=0.02), chat.posting(*threads[:1], every_s=0.03):
                    await chat.more_acknowledged(20)
                    for _ in range(rounds):
                        await _round(workers, chat, following)
                await _verify(chat, following)
            finally:
                await asyncio.gather(*[follower.stop() for follower in following])
            print(
                f"{sum(follower.connects for follower in following)} connects, {chat.acknowledged} commands,"
                f" {sum(follower.repeats for follower in following)} repeats"
            )
        await workers.fsck()


async def _round(workers: Workers, chat: Chat, following: list[AccountFollower]) -> None:
    await workers.spread("b", "c", "a")  # handoff: every shard goes to another worker
    await chat.more_acknowledged(20)
    await workers.by_name["b"].kill()  # takeover
    following.append(await _list_then_follow(workers))
    await workers.served("a", "c")
    await chat.more_acknowledged(20)
    await workers.start("b")
    await workers.spread(*NAMES)
    workers.by_name["c"].signal(signal.SIGTERM)  # restart in order
    await workers.by_name["c"].ended()
    await chat.more_acknowledged(20)
    await workers.start("c")
    await workers.spread(*NAMES)
    await chat.more_acknowledged(20)


async def _list_then_follow(workers: Workers) -> AccountFollower:
    """A stream that goes on where a list ends; what the list shows it need not show."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{workers.urls[0]}/v1/threads?account_id={ADA}") as response,
    ):
        answer = json.loads(await response.read())
    follower = AccountFollower(lambda: workers.urls, ADA, position=answer["position"])
    follower.newest = {each["id"]: each["sequenceNr"] for each in answer["results"]}
    follower.start()
    return follower


async def _verify(chat: Chat, following: list[AccountFollower]) -> None:
    """Every stream has every acknowledged event, and saw no fault."""
    async with asyncio.timeout(60):
        for follower in following:
            while not follower.faults and any(follower.newest.get(each, 0) < chat.heads[each] for each in chat.heads):
                await asyncio.sleep(0.01)
    for follower in following:
        assert follower.faults == []
        assert follower.resets == 0
