"""Hostile heads, framing and pipelines: raw bytes for either port."""

from collections.abc import Callable
from typing import Final

from tests.hostile.inputs import HostileInput, Port, of_bytes

_THREAD: Final = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
_ADD: Final = f"/v1/threads/{_THREAD}/messages/add"
_SMUGGLED: Final = b"GET /openapi.json HTTP/1.1\r\nHost: smuggled\r\n\r\n"


def _get(target: bytes = b"/nothing", version: bytes = b"1.1", fields: bytes = b"") -> bytes:
    return b"GET %b HTTP/%b\r\nHost: test\r\n%b\r\n" % (target, version, fields)


def _post(fields: bytes, body: bytes = b"", path: str = _ADD, version: bytes = b"1.1") -> bytes:
    head = b"POST %b HTTP/%b\r\nHost: test\r\nContent-Type: application/json\r\n%b\r\n"
    return head % (path.encode(), version, fields) + body


def _sized(body: bytes, fields: bytes = b"", path: str = _ADD, version: bytes = b"1.1") -> bytes:
    return _post(b"Content-Length: %d\r\n%b" % (len(body), fields), body, path, version)


def _chunked(body: bytes, fields: bytes = b"") -> bytes:
    return _post(b"Transfer-Encoding: chunked\r\n" + fields, body)


_UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: %b\r\n"

HEADS: Final[dict[str, Callable[[], bytes]]] = {
    "words": lambda: b"hello\r\n\r\n",
    "nothing-but-nul": lambda: b"\0" * 100_000,
    "nothing-but-line-ends": lambda: b"\r\n" * 100_000,
    "tls-hello": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 600,
    "http-2-preface": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 200,
    "http-0-9": lambda: b"GET /\r\n",
    "http-9-9": lambda: _get(version=b"9.9"),
    "http-1-2": lambda: _get(version=b"1.2"),
    "unknown-method": lambda: b"FETCH / HTTP/1.1\r\nHost: test\r\n\r\n",
    "long-method": lambda: b"A" * 100_000 + b" / HTTP/1.1\r\nHost: test\r\n\r\n",
    "line-feeds-alone": lambda: b"GET / HTTP/1.1\nHost: test\n\n",
    "carriage-returns-alone": lambda: b"GET / HTTP/1.1\rHost: test\r\r",
    "no-host": lambda: b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": lambda: _get(fields=b"Host: other\r\n"),
    "host-that-is-no-text": lambda: b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "folded-field": lambda: _get(fields=b"X: a\r\n b\r\n"),
    "field-without-colon": lambda: _get(fields=b"nonsense\r\n"),
    "space-before-colon": lambda: _get(fields=b"Content-Length : 3\r\n"),
    "nul-in-a-field": lambda: _get(fields=b"X: a\0b\r\n"),
    "field-of-no-text": lambda: _get(fields=b"X: \xff\xc0\x80\r\n"),
    "field-without-name": lambda: _get(fields=b": x\r\n"),
    "field-of-1-mib": lambda: _get(fields=b"X: %b\r\n" % (b"a" * (1 << 20))),
    "field-name-of-100-kb": lambda: _get(fields=b"%b: x\r\n" % (b"a" * 100_000)),
    "128-fields-of-8-kb": lambda: _get(fields=b"".join(b"X%d: %b\r\n" % (i, b"a" * 8_000) for i in range(120))),
    "10000-fields": lambda: _get(fields=b"X: y\r\n" * 10_000),
    "target-of-1-mib": lambda: _get(b"/" + b"a" * (1 << 20)),
    "target-of-8-kb-of-slashes": lambda: _get(b"/" * 8_000),
    "target-of-8-kb-of-percents": lambda: _get(b"/" + b"%2e%2F" * 1_300),
    "target-of-no-text": lambda: _get(b"/\xff\xfe"),
    "target-with-nul": lambda: _get(b"/%00\0"),
    "target-with-dots": lambda: _get(b"/v1/../../../etc/passwd"),
    "target-with-a-fragment": lambda: _get(b"/docs#a#b#c"),
    "query-of-4000-parameters": lambda: _get(b"/v1/threads/%b?%b" % (_THREAD.encode(), b"&".join([b"a=b"] * 2_000))),
    "query-of-ampersands": lambda: _get(b"/v1/threads/%b?%b" % (_THREAD.encode(), b"&" * 8_000)),
    "query-of-percents": lambda: _get(b"/v1/threads/%b?account_id=%b" % (_THREAD.encode(), b"%C3%A4" * 1_300)),
    "absolute-target": lambda: _get(b"http://test/nothing"),
    "absolute-target-no-decoder-likes": lambda: _get(b"http://xn--xn--.../"),
    "absolute-target-of-punycode": lambda: _get(b"http://xn--%b/" % (b"9" * 200)),
    "absolute-target-with-a-bad-port": lambda: _get(b"http://test:99999999/"),
    "absolute-target-with-a-bad-address": lambda: _get(b"http://[::1/"),
    "absolute-target-with-a-zone": lambda: _get(b"http://[fe80::1%25eth0]/"),
    "absolute-target-with-a-user": lambda: _get(b"http://a:b@test/"),
    "absolute-target-without-a-host": lambda: _get(b"http:///nothing"),
    "absolute-target-of-another-scheme": lambda: _get(b"gopher://test/nothing"),
    "absolute-target-of-unicode": lambda: _get("http://\u2488com/".encode()),
    "asterisk": lambda: b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    "asterisk-of-get": lambda: _get(b"*"),
    "connect": lambda: b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n" + b"\0" * 200_000,
    "connect-without-a-port": lambda: b"CONNECT test HTTP/1.1\r\nHost: test\r\n\r\n",
    "connect-to-nothing": lambda: b"CONNECT / HTTP/1.1\r\nHost: test\r\n\r\n" + _SMUGGLED,
    "upgrade-websocket": lambda: _get(fields=_UPGRADE % b"websocket") + b"\x81" * 300_000,
    "upgrade-h2c-and-a-request": lambda: _get(fields=_UPGRADE % b"h2c") + _SMUGGLED,
    "upgrade-tls": lambda: _get(fields=_UPGRADE % b"TLS/1.3") + b"\x16" * 5_000,
    "upgrade-of-a-post": lambda: _sized(b"{}", _UPGRADE % b"websocket") + _SMUGGLED,
    "upgrade-of-a-post-half-sent": lambda: _post(b"Content-Length: 1000\r\n" + _UPGRADE % b"websocket", b"{"),
    "upgrade-without-connection": lambda: _get(fields=b"Upgrade: websocket\r\n") + _SMUGGLED,
    "length-of-words": lambda: _post(b"Content-Length: x\r\n"),
    "length-negative": lambda: _post(b"Content-Length: -1\r\n"),
    "length-with-a-plus": lambda: _post(b"Content-Length: +3\r\n", b"{} "),
    "length-in-hexadecimal": lambda: _post(b"Content-Length: 0x3\r\n", b"{} "),
    "length-of-4300-digits": lambda: _post(b"Content-Length: %b\r\n" % (b"1" * 4_300)),
    "length-of-a-petabyte": lambda: _post(b"Content-Length: 1000000000000000\r\n", b"{" * 1_000),
    "lengths-two": lambda: _post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"{}"),
    "lengths-in-one-line": lambda: _post(b"Content-Length: 2, 2\r\n", b"{}"),
    "length-and-chunked": lambda: _post(
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + _SMUGGLED
    ),
    "chunked-in-1-0": lambda: _post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + _SMUGGLED, version=b"1.0"),
    "encoding-gzip-chunked": lambda: _post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n" + _SMUGGLED),
    "encoding-gzip": lambda: _post(b"Transfer-Encoding: gzip\r\n", b"0\r\n\r\n"),
    "encoding-identity": lambda: _post(b"Transfer-Encoding: identity\r\n", _SMUGGLED),
    "encoding-chunked-twice": lambda: _post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "encoding-chunked-then-gzip": lambda: _post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "encoding-of-nothing": lambda: _post(b"Transfer-Encoding: \r\n", _SMUGGLED),
    "encoding-with-a-tab": lambda: _post(b"Transfer-Encoding:\tchunked\t\r\n", b"0\r\n\r\n"),
    "encoding-with-a-parameter": lambda: _post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n"),
    "chunks-of-one-byte": lambda: _chunked(b"1\r\n{\r\n" * 200_000 + b"0\r\n\r\n"),
    "chunks-of-one-byte-at-an-early-answer": lambda: (
        b"POST /nothing HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 200_000
    ),
    "chunk-size-of-words": lambda: _chunked(b"zz\r\n{}\r\n"),
    "chunk-size-negative": lambda: _chunked(b"-1\r\n{}\r\n"),
    "chunk-size-overflow": lambda: _chunked(b"ffffffffffffffffff\r\n"),
    "chunk-size-with-zeros": lambda: _chunked(b"0" * 300_000 + b"2\r\n{}\r\n0\r\n\r\n"),
    "chunk-extension-of-1-mib": lambda: _chunked(b"2;" + b"a" * (1 << 20) + b"\r\n{}\r\n0\r\n\r\n"),
    "chunk-extensions-of-quotes": lambda: _chunked((b'1;a="' + b'\\"' * 20 + b'"\r\n{\r\n') * 5_000),
    "chunk-without-its-line-end": lambda: _chunked(b"2\r\n{}0\r\n\r\n"),
    "chunk-longer-than-told": lambda: _chunked(b"2\r\n{}{}{}\r\n0\r\n\r\n"),
    "trailers-10000": lambda: _chunked(b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"),
    "trailer-of-1-mib": lambda: _chunked(b"0\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n"),
    "trailer-content-length": lambda: _chunked(b"0\r\nContent-Length: 5\r\n\r\n" + _SMUGGLED),
    "expect-at-an-unknown-path": lambda: _sized(_SMUGGLED, b"Expect: 100-continue\r\n", "/nothing"),
    "expect-in-1-0": lambda: _sized(_SMUGGLED, b"Expect: 100-continue\r\n", version=b"1.0"),
    "expect-and-no-body": lambda: _post(b"Content-Length: 9\r\nExpect: 100-continue\r\n"),
    "expect-of-nonsense": lambda: _sized(b"{}", b"Expect: a-miracle\r\n"),
    "expect-beyond-the-limit": lambda: _post(b"Content-Length: 99999999\r\nExpect: 100-continue\r\n", _SMUGGLED),
    "body-of-a-get": lambda: (
        b"GET /nothing HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(_SMUGGLED) + _SMUGGLED
    ),
    "body-half-of-a-get": lambda: b"GET /nothing HTTP/1.1\r\nHost: test\r\nContent-Length: 9999\r\n\r\n" + _SMUGGLED,
    "body-at-an-unknown-path": lambda: _post(b"Content-Length: 9999\r\n", _SMUGGLED, "/nothing"),
    "body-of-a-wrong-type": lambda: (
        b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\n" % _ADD.encode()
        + _SMUGGLED
    ),
    "body-of-16-mib-at-an-early-answer": lambda: _sized(b" " * (16 << 20)),
    "1-1-behind-1-0": lambda: _get(version=b"1.0", fields=b"Connection: keep-alive\r\n") + _SMUGGLED,
    "request-behind-connection-close": lambda: _get(fields=b"Connection: close\r\n") + _SMUGGLED * 100,
    "malformed-behind-a-request": lambda: _get() + b"nonsense\r\n\r\n",
    "pipeline-of-10000-unknown-paths": lambda: _get() * 10_000,
    "pipeline-of-10000-heads": lambda: b"HEAD /docs HTTP/1.1\r\nHost: test\r\n\r\n" * 10_000,
    "pipeline-of-10000-options": lambda: b"OPTIONS /docs HTTP/1.1\r\nHost: test\r\n\r\n" * 10_000,
    "pipeline-of-3000-wrong-methods": lambda: b"DELETE /docs HTTP/1.1\r\nHost: test\r\n\r\n" * 3_000,
    "pipeline-of-3000-bad-bodies": lambda: _sized(b"[]") * 3_000,
    "pipeline-of-2000-chunked-bodies": lambda: _chunked(b"2\r\n[]\r\n0\r\n\r\n") * 2_000,
    "pipeline-of-500-queries": lambda: (
        _get(b"/v1/threads/%b?account_id=%b" % (_THREAD.encode(), _THREAD.encode())) * 500
    ),
    "pipeline-of-1000-documents": lambda: _get(b"/openapi.json") * 1_000,
}
"""By name."""

_ON_MANAGEMENT: Final = (
    *("words", "nothing-but-nul", "tls-hello", "http-2-preface", "field-of-1-mib", "10000-fields", "target-of-1-mib"),
    *("128-fields-of-8-kb", "absolute-target-no-decoder-likes", "connect", "upgrade-websocket", "chunks-of-one-byte"),
    *("upgrade-h2c-and-a-request", "encoding-gzip-chunked", "length-and-chunked", "expect-at-an-unknown-path"),
    *("trailers-10000", "pipeline-of-10000-unknown-paths", "body-of-16-mib-at-an-early-answer", "chunk-size-overflow"),
    *("field-of-no-text", "host-that-is-no-text", "target-of-no-text", "1-1-behind-1-0", "malformed-behind-a-request"),
)
"""These are sent to the management port too."""

INPUTS: Final = (
    *of_bytes(HEADS),
    *(HostileInput(name=f"management-{name}", port=Port.MANAGEMENT, raw=HEADS[name]) for name in _ON_MANAGEMENT),
)
