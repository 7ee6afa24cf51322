"""The yardstick: an aiohttp ``web.Application`` whose POST reads the body and answers a few bytes.

It is what any durable command behind aiohttp costs before it does anything: same server, same loop, no access log, and
a route with a parameter as in the real API.  Prints ``ready PORT`` on its standard output.
"""

import asyncio
import signal

import uvloop
from aiohttp import web

_ANSWER = b'{"threadId":"0000000000EXAMP1E0000000000","messageIds":["0000000000EXAMP1E0000000000"],"sequenceNr":1}'


async def _post(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=_ANSWER, content_type="application/json")


async def _serve() -> None:
    application = web.Application()
    application.router.add_post("/v1/threads/{thread_id}/messages/add", _post)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"ready {runner.addresses[0][1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_serve())
