"""Requests that wait for a thread's next event: beside the others, withdrawn when no one waits, unknown to earlier releases."""

import asyncio

import pytest

from shard_worker.contract import NO_STREAMS, Done, Followed, FollowThread, ReadAccess
from shard_worker.peers import client as client_module
from shard_worker.peers.errors import PeerUnreachable
from shard_worker.peers.frames import STREAMS, VERSION, Hello
from tests.peers.harness import READ, Owner, ask, client, port_of
from tests.support.polling import eventually
from tests.support.tls import INCARNATION

FOLLOW = FollowThread(READ.thread_id, 5, 9)


def hello_with_streams() -> Hello:
    """The first frame of a release that knows streams."""
    return Hello(VERSION, INCARNATION, features=STREAMS)


async def test_a_request_that_no_one_waits_for_is_withdrawn() -> None:
    """By its client, and with its link."""
    owner = Owner(hold=True)
    async with port_of(owner) as port, client() as peer:
        port.peers.hello = hello_with_streams
        first, second = (asyncio.create_task(ask(peer, port.number, request=FOLLOW)) for _ in range(2))
        await eventually(lambda: len(owner.held) == 2)
        first.cancel()
        await eventually(lambda: owner.held[0][1].cancelled(), what="the withdrawal")
        owner.held[1][1].set_result(Followed(9, fresh=True))
        assert await second == Followed(9, fresh=True)
        third = asyncio.create_task(ask(peer, port.number, request=FOLLOW))
        await eventually(lambda: len(owner.held) == 3)
        await peer.close()
        with pytest.raises(PeerUnreachable):
            await third
        await eventually(lambda: owner.held[2][1].cancelled(), what="the end with the link")


async def test_an_owner_of_an_earlier_release_is_not_asked() -> None:
    """It would refuse the frame; the link goes on."""
    owner = Owner()
    async with port_of(owner) as port, client() as peer:
        assert await ask(peer, port.number, request=FOLLOW) == NO_STREAMS
        assert await ask(peer, port.number, request=ReadAccess(READ.thread_id, READ.account_id)) == NO_STREAMS
        assert owner.served == 0
        assert await ask(peer, port.number, 3) == Done(3)


async def test_followed_threads_take_no_place_of_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window counts only requests that end by themselves."""
    monkeypatch.setattr(client_module, "_WINDOW", 2)
    owner = Owner(hold=True)
    async with port_of(owner) as port, client() as peer:
        port.peers.hello = hello_with_streams
        following = [asyncio.create_task(ask(peer, port.number, request=FOLLOW)) for _ in range(5)]
        await eventually(lambda: len(owner.held) == 5)
        owner.hold = False
        assert await ask(peer, port.number, 3) == Done(3)
        for task in following:
            task.cancel()
        await eventually(lambda: all(future.cancelled() for _, future in owner.held))
