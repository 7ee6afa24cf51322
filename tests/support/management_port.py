"""A management port on a socket of its own, for tests of its HTTP."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from shard_worker.gateway.management.server import ManagementPort
from shard_worker.gateway.public.server import listening_socket
from shard_worker.peers.listener import ManagementListener
from tests.support.tls import identity


@contextmanager
def serving(port: ManagementPort, secret: bytes) -> Iterator[int]:
    """The number of a port that serves HTTP in the clear, and the internal API by TLS; no peers."""
    listener = ManagementListener(
        identity(secret), plain=port.plain_protocol, internal=port.internal_protocol, peer=asyncio.Protocol
    )
    with listening_socket("127.0.0.1", 0) as bound:
        number: int = bound.getsockname()[1]
        listener.start(bound)
    try:
        yield number
    finally:
        listener.stop()
        port.close()
