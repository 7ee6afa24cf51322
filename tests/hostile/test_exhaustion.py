"""Exhaustion of file descriptors, and of memory for bodies that never come whole."""

import asyncio
import resource
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from shard_worker.gateway.http.capacity import Bounds
from tests.hostile.inputs import HostileInput, Port
from tests.hostile.rig import HOST, RSS_BOUND_MIB, rig
from tests.support.polling import eventually

WITHHELD = 2_500
_HEAD = (
    b"POST /v1/threads/01BX5ZZKBKACTAV9WEVGEMMVRZ/messages/add HTTP/1.1\r\nHost: test\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
)


async def _connect_and_send(host: str, port: int, *, count: int, sent: bytes, for_s: float) -> None:
    """Open connections, send the bytes that their kernels take, and disconnect after a while."""
    loop = asyncio.get_running_loop()
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket()
            opened.append(one)
            one.setblocking(False)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await loop.sock_connect(one, (host, port))
                one.send(sent)
        await asyncio.sleep(for_s)
    finally:
        for one in opened:
            one.close()


async def test_worker_without_descriptors_serves_on(dsn: str, tmp_path: Path) -> None:
    """It says so once, drops who waits for nothing, and accepts again."""
    async with rig(tmp_path / "worker", dsn) as attacked:
        limit = attacked.open_descriptors + 20
        resource.prlimit(attacked.pid, resource.RLIMIT_NOFILE, (limit, limit))

        async def crowd(host: str, port: int) -> None:
            await _connect_and_send(host, port, count=120, sent=b"", for_s=1.0)

        verdict = await attacked.attack([HostileInput(name="more-connections-than-descriptors", act=crowd)])
        assert not verdict.complaints
        assert await attacked.settle() == []
        logged = [line for line in attacked.log.read_text().splitlines() if "ran out of file descriptors" in line]
        assert len(logged) == 1
        _, writer = await asyncio.open_connection(HOST, attacked.ports[Port.PUBLIC])
        writer.close()


@pytest.mark.soak
async def test_bytes_of_gone_connections_are_given_back(dsn: str, tmp_path: Path) -> None:
    """Bodies that never come whole take no more than their bound, and nothing once their clients have gone."""
    async with rig(tmp_path / "worker", dsn) as attacked:

        async def withhold(host: str, port: int) -> None:
            await _connect_and_send(host, port, count=WITHHELD, sent=_HEAD + b" " * 300_000, for_s=2.0)

        before = attacked.rss_mib
        for _ in range(2):
            verdict = await attacked.attack([HostileInput(name="withheld-bodies", act=withhold)])
            assert not verdict.complaints
        # The bodies have a bound of their own beside what the program and its connections take.
        bodies_mib = Bounds().body_bytes / (1 << 20)
        assert await attacked.settle(rss_bound_mib=RSS_BOUND_MIB + bodies_mib) == []
        await eventually(lambda: attacked.rss_mib < before + 40, within_s=90, what="the memory given back")
        print(f"RSS: {before:.0f} MiB before, {attacked.peak_rss_mib:.0f} at most, {attacked.rss_mib:.0f} after")
