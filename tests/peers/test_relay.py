"""A relay on the way between two workers: it reads nothing, and the link falls when it changes anything."""

import asyncio

import pytest

from shard_worker.contract import CommandRequest, Done, MessagePage, MessageView, PeerAnswer
from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.peers.errors import PeerUnreachable
from tests.peers.harness import Owner, ask, client, port_of
from tests.support.frame_relay import Fault, Relay

THREAD, ACCOUNT = ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"), AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY")
MESSAGE = MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX")
TEXT = "a text that no relay may read"
ANSWER_TEXT = "an answer that no relay may read"


def add(text: str) -> CommandRequest:
    """A command with a text."""
    return CommandRequest(AddMessages(THREAD, ACCOUNT, (NewMessage(MESSAGE, text, None, ()),), 5), b"c" * 16)


class Reader(Owner):
    """Answers with a text."""

    def answer(self, number: int) -> PeerAnswer:
        return MessagePage((MessageView(MESSAGE, ACCOUNT, ANSWER_TEXT, None, (), 1, 2, 3, 0),), more=False)


async def test_a_relay_reads_no_text() -> None:
    """Neither of requests nor of answers, nor whose they are, nor a secret."""
    owner = Reader()
    async with port_of(owner) as port, Relay(port.number) as relay, client() as peer:
        assert await ask(peer, relay.port, request=add(TEXT)) == owner.answer(1)
        assert owner.requests == [add(TEXT)]
        assert len(relay.seen) > 1_000
        for word in (TEXT, ANSWER_TEXT, THREAD, ACCOUNT, "a secret of the cluster"):
            assert word.encode() not in relay.seen


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("fault", list(Fault))
async def test_the_link_falls_when_a_relay_changes_what_it_passes_on(fault: Fault, direction: str) -> None:
    """The owner decides nothing that was not asked, the asker takes nothing that was not answered; then it goes on."""
    owner = Owner()
    async with port_of(owner) as port, Relay(port.number) as relay, client() as peer:
        assert await ask(peer, relay.port, 1, request=add("0")) == Done(1)
        relay.armed[direction] = fault
        asked = [add(str(number)) for number in range(1, 9)]
        answers: list[PeerAnswer | BaseException] = []
        for number, request in enumerate(asked, 1):  # one record each
            asking = asyncio.create_task(ask(peer, relay.port, number, request=request, budget_s=1.0))
            await asyncio.wait((asking,), timeout=0.05)
            answers += await asyncio.gather(asking, return_exceptions=True) if asking.done() else []
            if not asking.done():
                follower = asyncio.create_task(ask(peer, relay.port, 99, request=asked[-1], budget_s=1.0))
                answers += await asyncio.gather(asking, return_exceptions=True)
                await asyncio.gather(follower, return_exceptions=True)
        assert relay.done == 1
        assert relay.connections == 2, "the first link fell, and another was made"
        lost = [answer for answer in answers if isinstance(answer, BaseException)]
        assert lost
        assert all(isinstance(error, PeerUnreachable) for error in lost)
        for number, answer in enumerate(answers, 1):
            assert isinstance(answer, PeerUnreachable) or answer == Done(number)
        assert all(request in [add("0"), *asked] for request in owner.requests)
