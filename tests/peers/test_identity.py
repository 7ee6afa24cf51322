"""Certificates: what each proves, whom each side believes, and that a clock step changes nothing."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from shard_worker.contract import Done
from shard_worker.contract_tls import (
    INTERNAL_NAME,
    Authority,
    Purpose,
    fingerprint,
    internal_client_context,
    make_context,
    parse_secrets,
    peer_name,
)
from shard_worker.peers.errors import PeerUnreachable
from shard_worker.peers.refusals import Refused
from tests.peers.harness import ASKING, Owner, ask, client, port_of
from tests.support.polling import eventually
from tests.support.tls import INCARNATION, SECRET

OTHER = b"another secret of a cluster"
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def forged(holds: Purpose, believes: Purpose, secret: bytes = SECRET) -> ssl.SSLContext:
    """A client with a certificate of one purpose, that believes servers of another."""
    leaf = Authority(secret, holds).leaf(peer_name(ASKING), server=False, client=True)
    context = make_context(ssl.PROTOCOL_TLS_CLIENT, [Authority(SECRET, believes)], "unused", server=False, client=True)
    leaf.load_into(context)
    return context


async def talk(port: int, context: ssl.SSLContext, name: str, sent: bytes = HTTP) -> bytes:
    """The server's answer; empty when it ends the connection."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        return b""
    return answer


async def test_a_certificate_of_one_purpose_opens_nothing_of_the_other() -> None:
    """A holder of the internal authority's key alone is no peer, and a peer's certificate gets no internal answer."""
    owner = Owner()
    async with port_of(owner) as port:
        internal, peer = Purpose.INTERNAL, Purpose.PEER
        assert (await talk(port.number, forged(internal, internal), INTERNAL_NAME)).endswith(b"http")
        assert await talk(port.number, forged(peer, internal), INTERNAL_NAME) == b""
        assert await talk(port.number, forged(internal, peer), peer_name(INCARNATION)) == b""
        assert await talk(port.number, forged(peer, peer, OTHER), peer_name(INCARNATION)) == b""
        assert await talk(port.number, forged(internal, internal, OTHER), INTERNAL_NAME) == b""
        assert owner.served == 0
        assert port.listener.refusals.counts[Refused.HANDSHAKE] == 4


@pytest.mark.parametrize("name", [peer_name("01HCCCCCCCCCCCCCCCCCCCCCCC"), "example.com", "peer"])
async def test_a_name_that_is_not_the_workers_is_refused(name: str) -> None:
    """Another incarnation's, another server's, or none."""
    owner = Owner()
    async with port_of(owner) as port:
        assert await talk(port.number, forged(Purpose.PEER, Purpose.PEER), name) == b""
        assert port.listener.refusals.counts[Refused.HANDSHAKE] == 1


async def test_no_certificate_and_old_tls_are_refused() -> None:
    """TLS 1.3 alone, and a certificate is demanded."""
    async with port_of(Owner()) as port:
        anonymous = ssl.create_default_context(cadata=Authority(SECRET, Purpose.INTERNAL).certificate)
        assert await talk(port.number, anonymous, INTERNAL_NAME) == b""
        old = internal_client_context((OTHER,))
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await talk(port.number, old, INTERNAL_NAME) == b""
        internal_client_context.cache_clear()


async def test_a_client_that_is_refused_sends_no_request() -> None:
    """It completes its handshake, and waits for the server's first frame: so nothing of the request was sent."""
    owner = Owner()
    async with port_of(owner) as port, client(OTHER, SECRET) as peer:  # signs with what the server does not hold
        with pytest.raises(PeerUnreachable, match=r"hold another secret|ConnectionReset|alert") as caught:
            await ask(peer, port.number)
        assert not caught.value.sent
        assert owner.served == 0


async def test_peers_check_the_incarnation() -> None:
    """After a fencing the same address is another peer, and asked over another connection."""
    owner = Owner()
    fresh = "01HCCCCCCCCCCCCCCCCCCCCCCC"
    async with port_of(owner) as port, client() as peer:
        assert await ask(peer, port.number, 1) == Done(1)
        with pytest.raises(PeerUnreachable):
            await ask(peer, port.number, 2, incarnation=fresh)
        port.identity._incarnation = lambda: fresh
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await ask(peer, port.number, 3, incarnation=fresh) == Done(3)
                    break
                except PeerUnreachable:
                    await asyncio.sleep(0.02)  # it backs off
        await eventually(lambda: len(port.peers.links) == 1, what="the old link retired")
        with pytest.raises(PeerUnreachable):
            await ask(peer, port.number, 4)
        assert await ask(peer, port.number, 5, incarnation=fresh) == Done(5)
        assert len(port.peers.links) == 1


async def test_two_values_verify_and_the_first_signs() -> None:
    """Workers in the middle of a rotation understand each other; those of the removed value are closed."""
    owner = Owner(hold=True)
    async with port_of(owner, OTHER, SECRET) as port, client(SECRET, OTHER) as peer:
        asking = asyncio.create_task(ask(peer, port.number, 1))
        await eventually(lambda: len(owner.held) == 1)
        port.identity.hold([OTHER])
        port.peers.retire(port.identity.fingerprints)
        await asyncio.sleep(0)
        owner.held[0][1].set_result(Done(1))
        assert await asking == Done(1), "answered before the link ends"
        await eventually(lambda: not port.peers.links, what="the link closed")
        with pytest.raises(PeerUnreachable):
            await ask(peer, port.number, 2)


def test_certificates_outlive_every_clock_step() -> None:
    """From 1970 to 9999; the authority's is the same wherever it is derived, and differs by purpose and secret."""
    authorities = [Authority(secret, purpose) for secret in (SECRET, OTHER) for purpose in Purpose]
    assert Authority(SECRET, Purpose.PEER).certificate == authorities[0].certificate
    assert len({each.certificate for each in authorities}) == 4
    leaf = authorities[0].leaf("a.peer", server=True, client=True)
    for pem in (authorities[0].certificate.encode(), leaf.certificate):
        found = x509.load_pem_x509_certificate(pem)
        assert found.not_valid_before_utc == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        assert found.not_valid_after_utc.year == 9999
    assert fingerprint(SECRET) != fingerprint(OTHER)


def test_no_descriptor_is_left() -> None:
    """A certificate passes through a file without a name."""
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        forged(Purpose.PEER, Purpose.PEER)
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"0123456789abcdef", (b"0123456789abcdef",)),
        (b"0123456789abcdef\n", (b"0123456789abcdef",)),
        (b"0123456789abcdef\r\nfedcba9876543210\n\n", (b"0123456789abcdef", b"fedcba9876543210")),
        (b"0123456789abcdef\n0123456789abcdef", (b"0123456789abcdef",)),
    ],
)
def test_a_secrets_file_holds_one_or_two_values(content: bytes, values: tuple[bytes, ...]) -> None:
    """A line each; the first signs."""
    assert parse_secrets(content) == values


@pytest.mark.parametrize("content", [b"", b"\n\n", b"short", b"0123456789abcdef\nshort", b"\n".join([b"x" * 20] * 3)])
def test_a_file_that_keeps_no_one_out_is_refused(content: bytes) -> None:
    """Without showing what is in it."""
    with pytest.raises(ValueError, match="must hold at") as caught:
        parse_secrets(content)
    assert "short" not in str(caught.value)
