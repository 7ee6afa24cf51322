"""The client of the workers: which answers count, and when the next worker is asked."""

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import msgspec
import pytest
from aiohttp import web
from threadcluster_operator.workers.client import (
    ANSWER_MOST,
    InvalidAnswer,
    NamedWorkers,
    NoWorkerAvailable,
    WorkerApiClient,
    WorkerRefused,
)

from shard_worker.contract_internal import (
    DATABASE_CLAIMED_BY_OTHER,
    PLAN_STALE,
    HistoryResponse,
    OwnershipDigest,
    OwnershipResponse,
    PinResponse,
    ProblemResponse,
    ShardEntry,
    ShardLoad,
    ShardTarget,
    TargetsRequest,
    TargetsResponse,
    shard_state,
)
from shard_worker.contract_tls import internal_key
from shard_worker.domain.ids import ShardId
from tests.support.polling import eventually
from tests.support.tls import internal_server

SECRET = "a word of 16 byte"
GARBAGE = b'{"changes": 1}'
PLAN = TargetsRequest(3, "hash", [ShardTarget(0, "demo-1", "wanted")])


class Worker:
    """A worker that answers every request alike, and keeps the bodies of the requests."""

    def __init__(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.body = body
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests: list[bytes] = []
        self.paths: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        """The same answer, whatever the path."""
        self.requests.append(await request.read())
        self.paths.append(request.path)
        return web.Response(
            body=self.body, status=self.status, headers={"Content-Type": "application/json", **self.headers}
        )


@asynccontextmanager
async def client(*workers: Worker) -> AsyncIterator[WorkerApiClient]:
    """A client of these workers, in this order."""
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(_serving(worker)) for worker in workers]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield WorkerApiClient(session, addresses, SECRET)


@asynccontextmanager
async def named(**workers: Worker) -> AsyncIterator[NamedWorkers]:
    """A client of these workers, by name."""
    async with AsyncExitStack() as stack:
        addresses = {name: await stack.enter_async_context(_serving(worker)) for name, worker in workers.items()}
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield NamedWorkers(session, addresses, SECRET)


@asynccontextmanager
async def _serving(worker: Worker) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/internal/v1/{path:.*}", worker.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=internal_server(SECRET.encode())).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def ownership(by: str, version: int, shards: Sequence[int] = (0,)) -> bytes:
    """The answer of a worker to ``GET ownership``."""
    entries = tuple(
        ShardEntry(
            id=ShardId(id),
            owner=by,
            incarnation="first",
            epoch=1,
            state=shard_state(owner=by, target=None),
            target=None,
            reason=None,
            since=None,
            load=ShardLoad(),
        )
        for id in shards
    )
    answer = OwnershipResponse(
        answered_by=by, plan_version=version, plan_hash="", workers=(), shards=entries, serving=()
    )
    return msgspec.json.encode(answer)


async def test_a_worker_with_another_secret_is_not_one_that_does_not_answer() -> None:
    """By its certificate, also when others answer; a user's key is as good as the secret."""
    async with AsyncExitStack() as stack:
        worker = Worker(ownership("demo-0", 3))
        address = await stack.enter_async_context(_serving(worker))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stranger = WorkerApiClient(session, [address], "another word of 24 bytes")
        assert await stranger.answers() == {}
        assert stranger.mismatched()
        with pytest.raises(NoWorkerAvailable, match="the workers hold another secret"):
            await stranger.set_targets(PLAN)
        away = WorkerApiClient(session, ["https://127.0.0.1:1"], SECRET)
        assert await away.answers() == {}
        assert not away.mismatched()
        user = WorkerApiClient(session, [address], internal_key(SECRET.encode()).decode())
        assert list(await user.answers()) == ["demo-0"]
        assert not user.mismatched()
    assert worker.requests == [b""]


async def test_a_pin_is_sent_as_it_is_wanted() -> None:
    """And it is known whether that changed anything."""
    answer = PinResponse(shard=ShardId(3), worker="demo-1", changed=True)
    worker = Worker(msgspec.json.encode(answer))
    async with client(worker) as workers:
        assert await workers.pin(3, "demo-1")
        assert await workers.pin(3, None)
    assert worker.requests == [b'{"shard":3,"worker":"demo-1"}', b'{"shard":3,"worker":null}']


async def test_the_newest_answer_counts() -> None:
    """Answers of no shard, of an error and of another form are left out."""
    workers = [
        Worker(ownership("demo-0", 4)),
        Worker(ownership("demo-1", 5)),
        Worker(ownership("demo-2", 9, shards=())),
        Worker(b"{}", status=503),
        Worker(GARBAGE),
    ]
    async with client(*workers) as asked:
        assert set(await asked.answers()) == {"demo-0", "demo-1", "demo-2"}
        assert (await asked.ownership()).answered_by == "demo-1"


async def test_the_ownership_of_another_cluster_is_no_answer() -> None:
    """Workers that were displaced say why; one that was not is believed."""
    theirs = msgspec.json.decode(ownership("demo-0", 9), type=OwnershipResponse)
    displaced = msgspec.json.encode(msgspec.structs.replace(theirs, claimed_by_other="the database belongs to demo-2"))
    async with client(Worker(displaced)) as asked:
        with pytest.raises(WorkerRefused, match="belongs to demo-2") as refused:
            await asked.ownership()
    assert refused.value.code == DATABASE_CLAIMED_BY_OTHER
    async with client(Worker(displaced), Worker(ownership("demo-1", 5))) as asked:
        assert (await asked.ownership()).answered_by == "demo-1"


async def test_the_next_worker_is_asked_after_one_without_an_answer() -> None:
    """An error of the server and an answer of another form are no answer."""
    empty = msgspec.json.encode(HistoryResponse(changes=()))
    workers = [Worker(b"", status=503), Worker(GARBAGE), Worker(empty), Worker(empty)]
    async with client(*workers) as asked:
        assert await asked.history(1, None) == ()
    assert [len(worker.requests) for worker in workers] == [1, 1, 1, 0]


async def test_workers_without_an_answer_are_none_that_is_available() -> None:
    """Whether the change was recorded is not known."""
    async with client(Worker(b"", status=500), Worker(GARBAGE)) as asked:
        with pytest.raises(NoWorkerAvailable, match="none of 2 workers answers"):
            await asked.set_targets(PLAN)
    async with client() as asked:
        with pytest.raises(NoWorkerAvailable, match="no worker runs"):
            await asked.ownership()


async def test_a_plan_is_sent_as_its_message() -> None:
    """The answer has the version of the plan."""
    worker = Worker(msgspec.json.encode(TargetsResponse(plan_version=4)))
    async with client(worker) as asked:
        assert await asked.set_targets(PLAN) == 4
    assert [msgspec.json.decode(each, type=TargetsRequest) for each in worker.requests] == [PLAN]


DIGEST = OwnershipDigest(
    answered_by="a", plan_version=4, epochs=1, beats=2, digest="d", member=True, serving=(ShardId(0),)
)


async def test_a_worker_is_asked_for_its_digest() -> None:
    """Of its own address; one whose release has none is asked for everything."""
    one = Worker(msgspec.json.encode(DIGEST))
    two = Worker(msgspec.json.encode(ProblemResponse(code="route-not-found")), status=404)
    async with named(a=one, b=two) as asked:
        assert await asked.probe("a") == DIGEST
        with pytest.raises(InvalidAnswer, match="its status is 404"):
            await asked.probe("b")
        two.status, two.body = 200, ownership("b", 4)
        assert await asked.ownership_of("b") == msgspec.json.decode(two.body, type=OwnershipResponse)
    assert one.paths == ["/internal/v1/ownership/digest"]
    assert two.paths == ["/internal/v1/ownership/digest", *["/internal/v1/ownership"] * 2]


async def test_no_redirect_is_followed() -> None:
    """The image in a pod is a tenant's: it must not lead the operator to another address."""
    goal = Worker(msgspec.json.encode(DIGEST))
    async with _serving(goal) as address:
        for status in (301, 302, 303, 307, 308):
            async with named(a=Worker(b"{}", status, Location=f"{address}/internal/v1/ownership")) as asked:
                for question in (asked.probe, asked.ownership_of):
                    with pytest.raises(InvalidAnswer, match=f"its status is {status}"):
                        await question("a")
    assert goal.requests == []


async def test_nothing_is_unpacked() -> None:
    """A few kilobytes would become a gigabyte."""
    bomb = gzip.compress(b" " * (64 << 20) + msgspec.json.encode(DIGEST), 9)
    for encoding in ("gzip", "deflate"):
        async with named(a=Worker(bomb, Content_Encoding=encoding)) as asked:
            tracemalloc.start()
            with pytest.raises(InvalidAnswer, match="it has another form"):
                await asked.probe("a")
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert most < 16 << 20, encoding


async def test_an_answer_is_read_up_to_its_bound_alone() -> None:
    """However it is sent; an answer of the longest that a cluster may have is taken."""
    long = Worker(msgspec.json.encode(DIGEST) + b" " * (ANSWER_MOST + 1))
    async with named(a=long) as asked:
        with pytest.raises(InvalidAnswer, match="it is longer than 2097152 bytes"):
            await asked.probe("a")
        long.body = long.body[:ANSWER_MOST]
        assert await asked.probe("a") == DIGEST
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * (1 << 16))
                sent += 1 << 16
                await asyncio.sleep(0)  # a write may not wait, and a cut connection is noticed by the loop
        return response

    worker = Worker(b"")
    worker.answer = endless  # type: ignore[method-assign,assignment]  # an answer without an end
    async with named(a=worker) as asked:
        with pytest.raises(InvalidAnswer, match="longer"):
            await asked.probe("a")
        await eventually(lambda: sent > 0)
        before = sent
        await asyncio.sleep(0.1)
        assert sent - before < ANSWER_MOST, "the connection is cut"


def _with_shards(ids: Sequence[int]) -> bytes:
    return ownership("a", 4, ids)


def _with_fencings(count: int) -> bytes:
    return json.dumps({**json.loads(ownership("a", 4)), "health": {"fencings": count}}).encode()


@pytest.mark.parametrize(
    "body",
    [
        _with_shards([0, 1, 1]),
        _with_shards([0, 7]),
        _with_shards([-1, 0]),
        _with_shards(range(4_097)),
        _with_fencings(10**400),
        _with_fencings(-1),
        b"[" * 100_000,
        b'{"answeredBy": 7}',
        b"null",
        b"\xff\xfe",
        b"",
    ],
    ids=[
        "twice",
        "a hole",
        "negative",
        "too many",
        "no float",
        "fewer than none",
        "deep",
        "another type",
        "null",
        "no text",
        "empty",
    ],
)
async def test_what_is_no_ownership_is_no_answer(body: bytes) -> None:
    """Typed decoding, and the ids of shards from 0 on without a hole."""
    async with named(a=Worker(body)) as asked:
        with pytest.raises(InvalidAnswer, match="it has another form"):
            await asked.ownership_of("a")


async def test_a_refusal_is_every_workers() -> None:
    """No other worker is asked, and the refusal has code and detail."""
    refusal = msgspec.json.encode(ProblemResponse(code=PLAN_STALE, detail="plan 4 is in force"))
    workers = [Worker(refusal, status=409), Worker(b"")]
    async with client(*workers) as asked:
        with pytest.raises(WorkerRefused, match="plan 4 is in force") as refused:
            await asked.set_targets(PLAN)
    assert refused.value.code == PLAN_STALE
    assert [len(worker.requests) for worker in workers] == [1, 0]
