"""What a hop between two workers costs beside aiohttp's client: ``python -m tests.peers.hop_cost``.

Both ends of each run in this one process and on one loop, so that the processor time of the process is the cost of both
sides.  The two are measured in turns, and the median of the rounds is told: a shared machine is never the same twice.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
import uvloop
from aiohttp import web

from shard_worker.contract import CommandRequest, Done, PeerAnswer, PeerRequest
from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.peers.client import PeerClient
from shard_worker.peers.server import PeerServer, sniffing_factory

_SECRET: Final = b"the secret of the benchmark"
_IN_FLIGHT: Final = 64
_ASKS: Final = 20_000
_POSTS: Final = 4_000
_ROUNDS: Final = 5
_REQUEST: Final = CommandRequest(
    AddMessages(
        ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"),
        AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY"),
        (NewMessage(MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"), "good morning, everybody", None, ()),),
        1_700_000_000_000,
    ),
    b"0123456789abcdef",
)
_ANSWER: Final = Done(12, (MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"),))


async def _cost_us(ask: Callable[[], Awaitable[object]], times: int) -> float:
    """Processor microseconds of one ``ask``, 64 of them always in flight."""

    async def caller() -> None:
        for _ in range(times // _IN_FLIGHT):
            await ask()

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(_IN_FLIGHT)))
    return (time.process_time() - began) * 1e6 / (times // _IN_FLIGHT * _IN_FLIGHT)


async def measure(rounds: int = _ROUNDS, asks: int = _ASKS, posts: int = _POSTS) -> tuple[float, float, float]:
    """Microseconds of a hop by frames answered at once, by frames answered later, and by aiohttp's client."""
    loop = asyncio.get_running_loop()
    later = False

    def handler(
        request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        if not later:
            return _ANSWER
        future: asyncio.Future[PeerAnswer] = loop.create_future()
        loop.call_soon(future.set_result, _ANSWER)
        return future

    async def http_handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=b'{"sequenceNr":12}', content_type="application/json")

    http = web.Server(http_handler, access_log=None)
    peers = PeerServer(handler, _SECRET)
    server = await loop.create_server(sniffing_factory(http, peers.protocol), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = PeerClient(_SECRET)
    figures: tuple[list[float], list[float], list[float]] = ([], [], [])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_IN_FLIGHT)) as session:

        async def by_frames() -> object:
            return await client.ask(("127.0.0.1", port), _REQUEST, budget_s=5.0, shard_id=7, epoch=3, hops=1)

        async def by_http() -> object:
            async with session.post(f"http://127.0.0.1:{port}/", data=b"x" * 200) as response:
                return await response.read()

        for _ in range(rounds):
            later = False
            figures[0].append(await _cost_us(by_frames, asks))
            later = True
            figures[1].append(await _cost_us(by_frames, asks))
            figures[2].append(await _cost_us(by_http, posts))
    await client.close()
    server.close()
    await peers.close(0.1)
    await http.shutdown(0.1)
    return statistics.median(figures[0]), statistics.median(figures[1]), statistics.median(figures[2])


def main() -> None:
    """Print the three figures and their ratio."""
    at_once, later, http = uvloop.run(measure())
    print(f"frames, answered at once: {at_once:6.1f} µs a hop   {at_once / http:5.1%} of ClientSession")
    print(f"frames, answered later:   {later:6.1f} µs a hop   {later / http:5.1%} of ClientSession")
    print(f"aiohttp ClientSession:    {http:6.1f} µs a hop")


if __name__ == "__main__":
    main()
