"""Hostile beginnings of the frames between workers, on the management port: from clients that know no secret."""

import os
from collections.abc import Callable
from typing import Final

from shard_worker.peers.frames import HELLO, MAGIC, NONCE, PROOF, VERSION
from tests.hostile.inputs import HostileInput, Port, of_bytes

_HELLO: Final = MAGIC + bytes([VERSION]) + b"\0" * NONCE
_GET: Final = b"GET %b HTTP/1.1\r\nHost: test\r\n%b\r\n"

FRAMES: Final[dict[str, Callable[[], bytes]]] = {
    "frames-magic-alone": lambda: MAGIC,
    "frames-half-a-magic": lambda: MAGIC[:2],
    "frames-magic-and-noise": lambda: MAGIC + os.urandom(1 << 16),
    "frames-another-version": lambda: MAGIC + b"\xff" + b"\0" * NONCE,
    "frames-half-a-hello": lambda: _HELLO[: HELLO // 2],
    "frames-hello-alone": lambda: _HELLO,
    "frames-wrong-proof": lambda: _HELLO + b"\1" * PROOF,
    "frames-half-a-proof": lambda: _HELLO + b"\1" * (PROOF // 2),
    "frames-a-megabyte-before-the-proof": lambda: _HELLO + b"\1" * (1 << 20),
    "frames-huge-length-before-the-proof": lambda: _HELLO + b"\xff" * 64,
    "frames-a-request-before-the-proof": lambda: _HELLO + _GET % (b"/metrics", b""),
    "tls-records-of-noise": lambda: b"\x16\x03\x03\x40\x00" + os.urandom(1 << 14),
    "tls-alerts": lambda: b"\x15\x03\x03\x00\x02\x02\x28" * 2_000,
    "tls-hello-cut-off": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
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

INPUTS: Final[tuple[HostileInput, ...]] = of_bytes(FRAMES, Port.MANAGEMENT)
