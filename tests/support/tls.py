"""Ends of TLS connections for tests: a worker's identity, and a server and a client of ``/internal/v1``."""

import ssl

from shard_worker.contract_tls import INTERNAL_NAME, Authority, Purpose, make_context
from shard_worker.peers.frames import VERSION, Hello
from shard_worker.peers.identity import WorkerIdentity

SECRET = b"a secret of the cluster"
INCARNATION = "01HWWWWWWWWWWWWWWWWWWWWWWW"
"""Of every server of `tests.peers`."""


def identity(*secrets: bytes, incarnation: str = INCARNATION) -> WorkerIdentity:
    """A worker's identity by these values of the secret; by `SECRET` without any."""
    return WorkerIdentity(secrets or (SECRET,), lambda: incarnation)


def hello() -> Hello:
    """A first frame."""
    return Hello(VERSION, INCARNATION)


def internal_server(secret: bytes) -> ssl.SSLContext:
    """Certificate that a worker shows to the operator and the CLI."""
    authorities = [Authority(secret, Purpose.INTERNAL)]
    return make_context(ssl.PROTOCOL_TLS_SERVER, authorities, INTERNAL_NAME, server=True, client=False)
