"""Starting and leaving: sockets, draining, closing."""

import asyncio
import os

import pytest

from shard_worker.contract import Answer, Done, Request
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.server import PublicGateway, inherited_socket, listening_socket
from tests.fakes.elsewhere import Elsewhere
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.bodies import PATH, body_of_size
from tests.gateway.serving import serving
from tests.support.polling import eventually
from tests.support.wire import JSON_TYPE, Wire, request_bytes

POST = request_bytes("POST", PATH, headers=(JSON_TYPE,), body=body_of_size(100))


class Slow(Elsewhere):
    """Answers when it is released."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def ask(self, request: Request, budget_s: float) -> Answer:
        self.asked.set()
        await self.may_answer.wait()
        return Done(1)


async def test_what_is_under_way_is_finished() -> None:
    """Drain waits for the answer, announces the connection's end, and accepts no new connection meanwhile."""
    slow = Slow()
    async with serving(slow, GatewayOptions(idle_grace_s=0.0)) as api:
        wire = await Wire.open(api.port)
        wire.send(POST)
        await slow.asked.wait()
        draining = asyncio.create_task(api.gateway.drain(10.0))
        await eventually(lambda: not api.gateway.accepting)
        assert not draining.done()
        slow.may_answer.set()
        answered = await wire.answer()
        assert (answered.status, answered.headers["connection"]) == (200, "close")
        await asyncio.wait_for(draining, 5)
        assert api.gateway.connections == 0


async def test_idle_connections_do_not_delay_the_drain() -> None:
    """They are closed after the grace, long before the deadline."""
    async with serving(MemoryThreads(), GatewayOptions(idle_grace_s=0.05)) as api:
        wire = await Wire.open(api.port)
        wire.send(POST)
        await wire.answer()
        await asyncio.wait_for(api.gateway.drain(60.0), 5)
        assert await wire.ended()


async def test_the_deadline_is_kept() -> None:
    """Close aborts requests that do not end."""
    slow = Slow()
    async with serving(slow, GatewayOptions(idle_grace_s=0.0)) as api:
        wire = await Wire.open(api.port)
        wire.send(POST)
        await slow.asked.wait()
        await asyncio.wait_for(api.gateway.drain(0.1), 5)
        assert api.gateway.connections == 1
        await api.gateway.close()
        assert await wire.ended()


async def test_leaving_asks_clients_to_go_but_serves_on() -> None:
    """Every answer says so; new connections are still taken."""
    async with serving(MemoryThreads()) as api:
        api.gateway.leave()
        for _ in range(2):
            assert (await api.get("/docs")).headers["connection"] == "close"


async def test_an_inherited_socket_outlives_the_gateway() -> None:
    """One gateway leaves, and the next connection to the shared socket is answered by another."""
    with listening_socket("127.0.0.1", 0) as shared:
        port = shared.getsockname()[1]
        first, second = PublicGateway(MemoryThreads()), PublicGateway(MemoryThreads())
        with inherited_socket(os.dup(shared.fileno())) as one, inherited_socket(os.dup(shared.fileno())) as two:
            await first.start([one])
            await first.drain(5.0)
            wire = await Wire.open(port)
            wire.send(request_bytes("OPTIONS", "/docs"))
            await second.start([two])
            assert (await wire.answer()).status == 204
            await wire.close()
            await second.close()


async def test_both_ports_are_served() -> None:
    """A worker's own port and the shared one, by the same gateway."""
    gateway = PublicGateway(MemoryThreads())
    with listening_socket("127.0.0.1", 0) as one, listening_socket("127.0.0.1", 0) as two:
        await gateway.start([one, two])
        for bound in (one, two):
            wire = await Wire.open(bound.getsockname()[1])
            wire.send(request_bytes("OPTIONS", "/docs"))
            assert (await wire.answer()).status == 204
            await wire.close()
        await gateway.close()


async def test_a_gateway_starts_once() -> None:
    """The second time is a mistake of the program."""
    gateway = PublicGateway(MemoryThreads())
    await gateway.drain(0.1)
    await gateway.start([])
    with pytest.raises(RuntimeError, match="started before"):
        await gateway.start([])
    await gateway.close()


def test_a_busy_port_is_an_os_error() -> None:
    """The caller names it with its remedy."""
    with listening_socket("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(OSError, match="in use"):
            listening_socket("127.0.0.1", bound.getsockname()[1])


@pytest.mark.parametrize("wrong", [{"backlog": 0}, {"request_timeout_s": 0.0}, {"idle_grace_s": -1.0}], ids=str)
def test_options_are_refused_by_name(wrong: dict[str, float]) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GatewayOptions(**wrong)  # type: ignore[arg-type]  # the values are wrong on purpose
