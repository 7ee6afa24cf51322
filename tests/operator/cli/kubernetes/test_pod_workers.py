"""Requests to the workers' pods, and the errors when no pod can be asked."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from threadcluster_operator.cli.kubernetes.errors import ClusterUnreachable
from threadcluster_operator.cli.kubernetes.pod_workers import PodWorkers
from threadcluster_operator.kube.client import Object

from shard_worker.contract_internal import HistoryEntry
from tests.fakes.kube import InMemoryKube
from tests.operator.cli.kubernetes.objects import pod, secret
from tests.support.tls import internal_server

WORD = b"a word of 16 byte"
SECRET = secret("chat.client-internal", internal=base64.b64encode(WORD).decode())
NOWHERE = "https://127.0.0.1:1"


class Addresses:
    """Every pod is at an address that the test says."""

    def __init__(self, **addresses: str) -> None:
        self.failure: str | None = None
        self.addresses = {name.replace("_", "-"): address for name, address in addresses.items()}
        self.asked: list[str] = []

    async def to(self, pod: str) -> str:
        self.asked.append(pod)
        return self.addresses.get(pod, NOWHERE)


@asynccontextmanager
async def worker() -> AsyncIterator[str]:
    """A worker that knows no change of owner; its address."""

    async def history(request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        return web.json_response({"changes": []})

    app = web.Application()
    app.router.add_get("/internal/v1/history", history)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=internal_server(WORD))
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(shelf: InMemoryKube, addresses: Addresses) -> tuple[HistoryEntry, ...]:
    """One question."""
    async with aiohttp.ClientSession() as session:
        return await PodWorkers(shelf, addresses, session, "here", "chat").history(1, None)


async def test_only_pods_that_are_ready_are_asked_and_not_all_of_them() -> None:
    """By the secret of the cluster, in the order of their numbers."""
    pods = [pod(f"chat-{number}", ready=number != 1) for number in range(12)]
    async with worker() as address:
        addresses = Addresses(chat_3=address)
        assert await ask(InMemoryKube(SECRET, *pods), addresses) == ()
    assert addresses.asked == ["chat-0", "chat-2", "chat-3"]


async def test_pods_are_looked_for_again_when_those_that_were_known_are_gone() -> None:
    """A command that waits outlives a rollout."""
    shelf, addresses = InMemoryKube(SECRET, pod("chat-0")), Addresses()
    async with aiohttp.ClientSession() as session:
        workers = PodWorkers(shelf, addresses, session, "here", "chat")
        async with worker() as addresses.addresses["chat-0"]:
            await workers.history(1, None)
        del shelf.objects["Pod", "chat-0"]
        shelf.put(pod("chat-1"))
        async with worker() as addresses.addresses["chat-1"]:
            assert await workers.history(1, None) == ()


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([SECRET], "no worker of chat can be asked: it has no pods; .*describe threadcluster chat -n here"),
        ([SECRET, pod("chat-0", ready=False)], "no worker of chat can be asked: none of its 1 pods is ready"),
        ([pod("chat-0")], "Secret chat.client-internal is not in namespace here, though the operator makes it"),
        (
            [pod("chat-0"), secret("chat.client-internal", other="")],
            "Secret chat.client-internal has no internal that can be used",
        ),
        (
            [pod("chat-0"), secret("chat.client-internal", internal="%")],
            "Secret chat.client-internal has no internal that can be used",
        ),
        (
            [pod("chat-0"), secret("chat.client-internal", internal="d29yZA==")],
            "can be used: must hold at least 16 bytes, not 4",
        ),
        ([SECRET, pod("chat-0")], "none of 1 workers answers; .*describe threadcluster chat -n here"),
    ],
    ids=["no pods", "none ready", "no secret", "no key", "no base64", "too short", "no answer"],
)
async def test_the_cause_without_a_reachable_pod_is_reported(objects: list[Object], expected: str) -> None:
    """Each with what to look at."""
    with pytest.raises(ClusterUnreachable, match=expected):
        await ask(InMemoryKube(*objects), Addresses())


async def test_a_way_that_does_not_lead_there_says_why() -> None:
    """The missing right is nearer to the cause than the missing answer."""
    addresses = Addresses()
    addresses.failure = "you may not forward a port"
    with pytest.raises(ClusterUnreachable, match=r"^you may not forward a port$"):
        await ask(InMemoryKube(SECRET, pod("chat-0")), addresses)


async def test_answers_without_one_that_knows_of_the_shards_are_no_answer() -> None:
    """A command would else plan from nothing."""
    async with aiohttp.ClientSession() as session, worker() as address:
        workers = PodWorkers(InMemoryKube(SECRET, pod("chat-0")), Addresses(chat_0=address), session, "here", "chat")
        with pytest.raises(ClusterUnreachable, match=r"^no worker answers; `kubectl describe"):
            await workers.answers()
