"""Hostile beginnings on the management port, from clients that know no secret: TLS, frames in the clear, HTTP."""

import os
import ssl
from collections.abc import Callable
from typing import Final

from shard_worker.contract_tls import INTERNAL_NAME
from tests.hostile.inputs import HostileInput, Port, of_bytes

_MAGIC: Final = b"TCF1"
"""How frames in the clear began, before they were inside TLS."""
_HELLO: Final = _MAGIC + b"\1" + b"\0" * 16
_PROOF: Final = 32
_GET: Final = b"GET %b HTTP/1.1\r\nHost: test\r\n%b\r\n"


def client_hello(name: str) -> bytes:
    """The first flight of a client that asks for a server name, and believes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


FRAMES: Final[dict[str, Callable[[], bytes]]] = {
    "frames-magic-alone": lambda: _MAGIC,
    "frames-half-a-magic": lambda: _MAGIC[:2],
    "frames-magic-and-noise": lambda: _MAGIC + os.urandom(1 << 16),
    "frames-another-version": lambda: _MAGIC + b"\xff" + b"\0" * 16,
    "frames-half-a-hello": lambda: _HELLO[: len(_HELLO) // 2],
    "frames-hello-alone": lambda: _HELLO,
    "frames-wrong-proof": lambda: _HELLO + b"\1" * _PROOF,
    "frames-half-a-proof": lambda: _HELLO + b"\1" * (_PROOF // 2),
    "frames-a-megabyte-before-the-proof": lambda: _HELLO + b"\1" * (1 << 20),
    "frames-huge-length-before-the-proof": lambda: _HELLO + b"\xff" * 64,
    "frames-a-request-before-the-proof": lambda: _HELLO + _GET % (b"/metrics", b""),
    "tls-records-of-noise": lambda: b"\x16\x03\x03\x40\x00" + os.urandom(1 << 14),
    "tls-alerts": lambda: b"\x15\x03\x03\x00\x02\x02\x28" * 2_000,
    "tls-hello-cut-off": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "tls-hello-alone": lambda: client_hello(INTERNAL_NAME),
    "tls-hello-without-a-name-of-ours": lambda: client_hello("example.com"),
    "tls-hello-to-an-incarnation": lambda: client_hello("01hzzzzzzzzzzzzzzzzzzzzzzz.peer"),
    "tls-hello-and-a-megabyte": lambda: client_hello(INTERNAL_NAME) + os.urandom(1 << 20),
    "tls-hello-and-http": lambda: client_hello(INTERNAL_NAME) + _GET % (b"/internal/v1/ownership", b""),
    "tls-hello-and-records-in-the-clear": lambda: (
        client_hello(INTERNAL_NAME) + b"\x17\x03\x03\x40\x00" + b"\0" * (1 << 14)
    ),
    "internal-without-a-secret": lambda: _GET % (b"/internal/v1/ownership", b"") * 200,
    "internal-with-a-wrong-secret": lambda: _GET % (b"/internal/v1/ownership", b"Authorization: Bearer x\r\n") * 200,
    "internal-with-a-secret-of-no-text": lambda: (
        _GET % (b"/internal/v1/ownership", b"Authorization: Bearer \xff\xfe\r\n")
    ),
    "internal-targets-unasked": lambda: (
        b"PUT /internal/v1/targets HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n" + b'"\\ud800"' + b" "
    ),
    "metrics-200-times": lambda: _GET % (b"/metrics", b"") * 200,
    "cluster-500-times": lambda: _GET % (b"/cluster", b"") * 500,
}
"""By name."""

_AT_ONCE: Final = 200

INPUTS: Final[tuple[HostileInput, ...]] = (
    *of_bytes(FRAMES, Port.MANAGEMENT),
    *(
        HostileInput(name=f"{name}-{_AT_ONCE}-at-once", port=Port.MANAGEMENT, raw=FRAMES[name], connections=_AT_ONCE)
        for name in ("tls-hello-alone", "tls-hello-to-an-incarnation", "tls-hello-and-a-megabyte")
    ),
)
