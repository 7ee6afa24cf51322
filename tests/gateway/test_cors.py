"""CORS: off by default."""

import pytest

from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import Served, serving
from tests.support.wire import request_bytes

ORIGIN = ("Origin", "https://chat.example")
PREFLIGHT = request_bytes("OPTIONS", "/v1/threads/create", headers=(ORIGIN, ("Access-Control-Request-Method", "POST")))


async def test_off_by_default(api: Served) -> None:
    """No answer has a field of CORS."""
    for answered in (await api.get("/docs", ORIGIN), await api.send(PREFLIGHT)):
        assert not [name for name in answered.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("origins", "allowed"), [(("https://chat.example",), ORIGIN[1]), (("*",), "*")])
async def test_configured_origins_may_call(threads: MemoryThreads, origins: tuple[str, ...], allowed: str) -> None:
    """Answers and problems alike, and preflights."""
    async with serving(threads, GatewayOptions(cors_origins=origins)) as api:
        for path in ("/docs", "/nothing"):
            assert (await api.get(path, ORIGIN)).headers["access-control-allow-origin"] == allowed
        preflight = await api.send(PREFLIGHT)
        assert preflight.headers["access-control-allow-methods"] == "OPTIONS, POST"
        assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]


async def test_other_origins_may_not(threads: MemoryThreads) -> None:
    """Other origins, and requests without one, get no permission; ``Vary`` informs caches."""
    async with serving(threads, GatewayOptions(cors_origins=("https://other.example",))) as api:
        for answered in (await api.get("/docs", ORIGIN), await api.get("/docs"), await api.send(PREFLIGHT)):
            assert answered.headers["vary"] == "Origin"
            assert not [name for name in answered.headers if name.startswith("access-control")]
