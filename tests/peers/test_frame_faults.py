"""A frame that is too long, does not decode or is invalid fails its own request, never the link of all the others."""

import asyncio

import msgspec
import pytest

from shard_worker.contract import (
    CommandRequest,
    Done,
    PeerAnswer,
    PeerRequest,
    ReadThread,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.peers import client as client_module
from shard_worker.peers import frames
from shard_worker.peers import server as server_module
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from tests.peers.harness import READ, Owner, ask, client, port_of
from tests.support.polling import eventually

COMMAND = CommandRequest(
    AddMessages(
        READ.thread_id, READ.account_id, (NewMessage(MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"), "t", None, ()),), 5
    ),
    b"c" * 16,
)


class OfTheNextRelease(msgspec.Struct, tag="of-the-next-release", array_like=True):
    """An answer that this release does not know."""


class Answering(Owner):
    """Answers request 1 with something special, after all others were answered."""

    def __init__(self, special: object) -> None:
        super().__init__()
        self.special = special

    def __call__(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        if isinstance(self.special, Exception) and epoch_known == 1:
            raise self.special
        return super().__call__(request, budget_s, epoch_known, hops)

    def answer(self, number: int) -> PeerAnswer:
        return self.special if number == 1 else Done(number)  # type: ignore[return-value]  # on purpose


async def beside_others(owner: Owner, request: PeerRequest = READ) -> PeerAnswer | BaseException:
    """The outcome of request 1 among others on the same link, which are all answered."""
    async with port_of(owner) as port, client() as peer:
        assert await ask(peer, port.number, 2) == Done(2)
        asks = [ask(peer, port.number, number, request=request if number == 1 else READ) for number in range(1, 9)]
        special, *others = await asyncio.gather(*asks, return_exceptions=True)
        assert others == [Done(number) for number in range(2, 9)]
        assert await ask(peer, port.number, 9) == Done(9)
        assert len(port.peers.links) == 1, "the link of before"
        return special


@pytest.mark.parametrize(
    ("request_", "code"), [(READ, UnavailableCode.OVERLOADED), (COMMAND, UnavailableCode.OUTCOME_UNKNOWN)]
)
async def test_an_answer_that_does_not_fit_fails_its_own_request(
    request_: PeerRequest, code: UnavailableCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is refused with its size; a command may be stored."""
    monkeypatch.setattr(frames, "FRAME_MOST", 1_000)
    found = await beside_others(Answering(Done(1, tuple([MessageId("x" * 26)] * 100))), request_)
    assert isinstance(found, Unavailable)
    assert found.code is code
    assert "ask for a smaller page" in found.detail


async def test_an_answer_of_the_next_release_fails_its_own_request() -> None:
    """The outcome is unknown."""
    found = await beside_others(Answering(OfTheNextRelease()))
    assert isinstance(found, Unavailable)
    assert found.code is UnavailableCode.OUTCOME_UNKNOWN


async def test_an_owner_that_fails_fails_its_own_request() -> None:
    """A fault of the program is logged there."""
    found = await beside_others(Answering(RuntimeError("a bug")))
    assert isinstance(found, Unavailable)
    assert found.code is UnavailableCode.OUTCOME_UNKNOWN


@pytest.mark.parametrize(
    "request_",
    [
        ReadThread(ThreadId("nonsense"), AccountId("x")),
        ReadThread(ThreadId("0" * 25 + "u"), AccountId("x")),
        OfTheNextRelease(),
    ],
    ids=["no id", "not canonical", "of the next release"],
)
async def test_a_request_that_cannot_be_read_is_refused_and_nothing_is_admitted(request_: PeerRequest) -> None:
    """By a frame that says so; the client knows that nothing was stored."""
    owner = Owner()
    found = await beside_others(owner, request_)
    assert isinstance(found, PeerUnreachable)
    assert not found.sent
    assert "cannot read the request" in str(found)
    assert request_ not in owner.requests


async def test_broken_framing_is_answered_and_ends_the_link() -> None:
    """After it no byte can be trusted; the next request finds another link."""
    async with port_of(Owner()) as port, client() as peer:
        assert await ask(peer, port.number, 2) == Done(2)
        (link,) = [task.result() for task in peer._links.values()]
        assert link._outbox is not None
        link._outbox.put(b"\xff" * 9)
        await eventually(lambda: link.closed)
        assert await ask(peer, port.number, 3) == Done(3)


async def test_a_peer_that_does_not_take_its_requests_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The send queue is bounded in bytes: nothing of the next request leaves."""
    monkeypatch.setattr(client_module, "_UNSENT_MOST", 100_000)
    async with port_of(Owner()) as port, client() as peer:
        await ask(peer, port.number)
        large = ReadThread(READ.thread_id, AccountId("x" * 60_000))
        asks = [asyncio.create_task(ask(peer, port.number, number, request=large)) for number in range(1, 9)]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert sum(isinstance(answer, Done) for answer in answers) == 2
        assert sum(isinstance(answer, PeerOverloaded) for answer in answers) == 6


async def test_answers_that_a_peer_does_not_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query gets a refusal in place of its page; commands' outcomes are still answered."""
    monkeypatch.setattr(server_module, "_UNREAD_MOST", 200_000)
    owner = Owner(hold=True)
    page = Done(1, tuple([MessageId("x" * 26)] * 4_000))
    async with port_of(owner) as port, client() as peer:
        asks = [
            asyncio.create_task(ask(peer, port.number, number, request=READ if number < 20 else COMMAND))
            for number in range(30)
        ]
        await eventually(lambda: len(owner.held) == 30)
        for _, future in owner.held:
            future.set_result(page)
        answers = await asyncio.gather(*asks)
        refused = [answer for answer in answers[:20] if isinstance(answer, Unavailable)]
        assert len(refused) > 10
        assert all(answer.code is UnavailableCode.OVERLOADED for answer in refused)
        assert answers[20:] == [page] * 10


async def test_a_dead_address_is_tried_less_and_less() -> None:
    """Each failure doubles the pause, up to a second, with jitter."""
    tries = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    began, asked = loop.time(), 0
    async with client() as peer:
        while loop.time() < began + 1.5:
            with pytest.raises(PeerUnreachable) as caught:
                await ask(peer, port)
            assert not caught.value.sent
            asked += 1
            await asyncio.sleep(0.002)
    server.close()
    assert 2 <= tries <= 9, f"{tries} of {asked}"


async def test_an_idle_link_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """By pings, which bring something back; without them both ends would take it for dead."""
    monkeypatch.setattr(client_module, "_IDLE_PING_S", 0.05)
    monkeypatch.setattr(client_module, "_IDLE_SWEEP_S", 0.05)
    async with port_of(Owner()) as port, client() as peer:
        await ask(peer, port.number)
        (link,) = [task.result() for task in peer._links.values()]
        heard = link._heard
        await eventually(lambda: link._heard > heard and link._pinged > 0)
        (served,) = port.peers.links
        assert served._heard > 0
        assert not link.closed
