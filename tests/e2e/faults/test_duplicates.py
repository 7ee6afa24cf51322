"""Retries: at once, through another worker, after a crash and after a restart: one effect, one answer."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
from ulid import ULID

from tests.support.local_cluster import local_cluster


async def test_a_keyed_command_has_one_effect_and_one_answer(data_dir: Path) -> None:
    """Twenty at once through every worker, then after kill -9 of all workers, then after down and up: all the same."""
    me = str(ULID())
    creation = {"accountId": me, "title": "t", "administratorIds": [me], "memberIds": []}
    message = {"accountId": me, "messages": [{"text": "once"}, {"text": "and again"}]}
    async with local_cluster(data_dir, 3, shards=12) as cluster, aiohttp.ClientSession() as session:

        async def post(url: str, path: str, body: dict[str, Any], key: str) -> bytes:
            deadline = asyncio.get_running_loop().time() + 30
            while True:
                try:
                    async with session.post(url + path, json=body, headers={"Idempotency-Key": key}) as response:
                        raw = await response.read()
                        if response.status == 200:
                            return raw
                except aiohttp.ClientError as error:
                    raw = repr(error).encode()
                assert asyncio.get_running_loop().time() < deadline, raw

        urls = await cluster.urls()
        created = set(
            await asyncio.gather(*[post(urls[n % 4], "/v1/threads/create", creation, "create") for n in range(20)])
        )
        assert len(created) == 1
        thread = (await _json(session, urls[0], "/v1/threads/create", creation, "create"))["threadId"]
        path = f"/v1/threads/{thread}/messages/add"
        first = set(await asyncio.gather(*[post(urls[n % 4], path, message, "add") for n in range(20)]))
        assert len(first) == 1

        for worker in (await cluster.status())["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        first.add(await post(urls[0], path, message, "add"))
        await cluster.ready()
        await cluster.down()
        await cluster.up(2)
        for url in await cluster.urls():
            first.add(await post(url, path, message, "add"))
            created.add(await post(url, "/v1/threads/create", creation, "create"))
        assert len(first) == len(created) == 1
        async with session.get(f"{urls[0]}/v1/threads/{thread}/messages?account_id={me}") as response:
            listed = await response.json()
        assert [item["body"] for item in listed["result"]] == ["once", "and again"]
        await cluster.fsck()


async def _json(session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    async with session.post(url + path, json=body, headers={"Idempotency-Key": key}) as response:
        found: dict[str, Any] = await response.json(content_type=None)
        return found
