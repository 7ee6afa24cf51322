"""Header fields that every answer has, the policy of the page, and the check of ``Host``."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, THREAD, Served, serving
from tests.support.problem_checks import check
from tests.support.wire import JSON_TYPE, Answered, request_bytes

BASE = f"/v1/threads/{THREAD}"
NAMES = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
async def local(threads: MemoryThreads) -> AsyncIterator[Served]:
    """A gateway that answers to localhost's names alone."""
    async with serving(threads, GatewayOptions(allowed_hosts=NAMES)) as served:
        yield served


async def test_json_is_neither_stored_nor_guessed_at(api: Served) -> None:
    """Successes, refusals, the document, and bytes that are no request."""
    answers = [
        await api.create(),
        await api.get(f"{BASE}?account_id={ADA}"),
        await api.get("/openapi.json"),
        await api.get("/nothing"),
        await api.post(BASE + "/destroy", {}),
        await api.send(request_bytes("PUT", BASE)),
        await api.send(b"hello\r\n\r\n"),
        await api.post(BASE + "/destroy", b" " * (128 * 1024 + 1)),
    ]
    assert [answered.status for answered in answers] == [200, 200, 200, 404, 400, 405, 400, 413]
    for answered in answers:
        assert answered.headers["cache-control"] == "no-store"
        assert answered.headers["x-content-type-options"] == "nosniff"


async def test_the_page_runs_this_ports_script_and_one_of_its_own_by_its_hash(api: Served) -> None:
    """No other script, inline or from elsewhere; inline styles and images in addresses are Swagger UI's."""
    page = await api.get("/docs")
    (script,) = re.findall(rb"<script>(.*?)</script>", page.body, re.DOTALL)
    assert dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")) == {
        "default-src": "'none'",
        "script-src": f"'self' 'sha256-{b64encode(sha256(script).digest()).decode()}'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert not re.search(rb"<[a-z][^>]*\s(?:on\w+|style)=", page.body), "an attribute that the page does not need"


async def test_the_start_of_a_local_cluster_names_console_and_documents(threads: MemoryThreads) -> None:
    """Without a token, and without script; elsewhere there is no such page."""
    console = "http://127.0.0.1:40123/"
    async with serving(threads, GatewayOptions(console_url=console, documentation=False)) as served:
        assert b"/docs" not in (await served.get("/")).body
    async with serving(threads, GatewayOptions(console_url=console)) as served:
        page = await served.get("/")
        assert page.status == 200
        assert f'href="{console}"'.encode() in page.body
        assert b'href="/docs"' in page.body
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert b"<script" not in page.body
    async with serving(threads, GatewayOptions()) as served:
        check(await served.get("/"), 404, "route-not-found")


async def ask(api: Served, host: str, target: str = "/docs", *more: tuple[str, str]) -> Answered:
    """OPTIONS with exactly this ``Host``."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in (("Host", host), *more))
    return await api.send(f"OPTIONS {target} HTTP/1.1\r\n{fields}\r\n".encode())


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST.", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080", "localhost:"],
)
async def test_localhost_by_any_name(local: Served, host: str) -> None:
    """With or without a port, in any case, with the dot of the root."""
    for _ in range(2):
        assert (await ask(local, host)).status == 204


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8080",
        "localhost.rebound.example",
        "notlocalhost",
        "127.0.0.1.rebound.example",
        "127.0.0.2",
        "[::2]",
        "localhost@rebound.example",
        "rebound.example#localhost",
        "localhost:80:80",
        "localhost,localhost",
        "",
    ],
)
async def test_421_a_foreign_host(local: Served, host: str) -> None:
    """A page whose name was rebound to loopback learns nothing, on any path."""
    for path in ("/docs", BASE, "/nothing"):
        check(await ask(local, host, path), 421, "misdirected-request")
    body = {"accountId": ADA, "title": "t", "administratorIds": [ADA], "memberIds": []}
    raw = request_bytes("POST", "/v1/threads/create", headers=(JSON_TYPE,), body=str(body).encode())
    answered = check(
        await local.send(raw.replace(b"Host: test", b"Host: " + host.encode())), 421, "misdirected-request"
    )
    assert answered.headers["connection"] == "close"


async def test_the_host_of_an_absolute_target_counts(local: Served) -> None:
    """The field is ignored then, as HTTP has it."""
    assert (await ask(local, "rebound.example", "http://localhost:1/docs")).status == 204
    for target in (
        "http://rebound.example/docs",
        "http://rebound.example?localhost",
        "http://localhost@rebound.example/",
    ):
        check(await ask(local, "localhost", target), 421, "misdirected-request")


async def test_any_host_by_default(api: Served) -> None:
    """Behind an ingress the names are its business; a target in absolute form finds its path."""
    assert (await ask(api, "chat.example")).status == 204
    assert (await ask(api, "chat.example", "http://chat.example/docs")).status == 204
