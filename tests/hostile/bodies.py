"""Hostile requests of one connection: bodies, query strings, header fields and paths that cost more than they weigh.

Each maker gives the raw bytes of whole requests.  All are within the limits, or are refused, and each is the cheapest
known way to make one step of the gateway expensive.
"""

import json
import random
from collections.abc import Callable
from typing import Final

from tests.hostile.inputs import HostileInput, of_bytes

ID: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
THREAD: Final = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
ADD: Final = f"/v1/threads/{THREAD}/messages/add"
CREATE: Final = "/v1/threads/create"
JOIN: Final = f"/v1/threads/{THREAD}/member-ids/join"
LEAVE: Final = f"/v1/threads/{THREAD}/administrator-ids/leave"
REMOVE: Final = f"/v1/threads/{THREAD}/messages/remove"
DESTROY: Final = f"/v1/threads/{THREAD}/destroy"
MIB: Final = 1024 * 1024
SMALL: Final = 128 * 1024
_GROWS: Final = "\U0001d160"
"""One code point whose NFC has three."""

Maker = Callable[[], bytes]


def request(method: str, target: str, *fields: str, body: bytes | None = None) -> bytes:
    """A whole request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def _post(target: str, body: bytes, *fields: str) -> bytes:
    return request("POST", target, *fields, body=body)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _filled(prefix: bytes, unit: bytes, suffix: bytes, size: int = MIB) -> bytes:
    """As many of ``unit`` between the two as fit."""
    return prefix + unit * ((size - len(prefix) - len(suffix)) // len(unit)) + suffix


def _texts(*texts: str, **more: object) -> bytes:
    return _json({"accountId": ID, "messages": [{"text": text, **more} for text in texts]})


def _title(text: str) -> bytes:
    return _json({"accountId": ID, "title": text, "administratorIds": [ID], "memberIds": []})


def _add(value: bytes, *fields: str) -> Maker:
    return lambda: _post(ADD, value, *fields)


def _addressees(identifier: str, messages: int = 36, each: int = 1_000) -> bytes:
    return _texts(*["a"] * messages, toAccountIds=[identifier] * each)


def _names(count: int, value: bytes = b"0") -> bytes:
    return b",".join(b'"%x":%b' % (number, value) for number in range(count))


_OPEN: Final = b'{"accountId":"%b","messages":' % ID.encode()
_KEY: Final = "Idempotency-Key: k-1"

_DECODING: Final[dict[str, Maker]] = {
    "empty-arrays": lambda: _post(ADD, _filled(b"[", b"[],", b"[]]")),
    "empty-objects": lambda: _post(ADD, _filled(b"[", b"{},", b"{}]")),
    "one-digit-numbers": lambda: _post(ADD, _filled(b"[", b"1,", b"1]")),
    "empty-strings": lambda: _post(ADD, _filled(b"[", b'"",', b'""]')),
    "nulls": lambda: _post(ADD, _filled(b"[", b"null,", b"null]")),
    "floats": lambda: _post(ADD, _filled(b"[", b"1e9,", b"1]")),
    "small-floats": lambda: _post(ADD, _filled(b"[", b"1.7e-300,", b"1]")),
    "one-long-float": lambda: _post(ADD, _filled(b'{"createAt":0.', b"7", b"}")),
    "one-huge-exponent": lambda: _post(ADD, b'{"createAt":1e%b}' % (b"9" * 500_000)),
    "open-arrays": lambda: _post(ADD, b"[" * MIB),
    "open-objects": lambda: _post(ADD, b'{"a":' * (MIB // 5)),
    "nested-arrays": lambda: _post(ADD, b"[" * 900 + b"]" * 900),
    "nested-objects-of-bad-names": lambda: _post(ADD, b'{"\\ud800":' * 900 + b"1" + b"}" * 900),
    "nested-value-beside-a-bad-name": lambda: _post(DESTROY, b'{"\\ud800":%b}' % (b"[" * 200 + b"]" * 200)),
    "quotes": lambda: _post(ADD, b'"' * MIB),
    "quotes-and-colons": lambda: _post(ADD, b'"":' * (MIB // 3)),
    "escaped-quotes": lambda: _post(ADD, _filled(b'["', b'\\"', b'"]')),
    "escaped-backslashes": lambda: _post(ADD, _filled(b'["', b"\\\\", b'"]')),
    "escapes-and-brackets": lambda: _post(ADD, _filled(b'["', b'\\"[{,:', b'"]')),
    "unicode-escapes": lambda: _post(ADD, _filled(b'["', b"\\u00e9", b'"]')),
    "surrogate-escapes": lambda: _post(ADD, _filled(b'["', b"\\ud83d\\ude00", b'"]')),
    "lone-surrogate-escapes": lambda: _post(ADD, _filled(b'["', b"\\ud800", b'"]')),
    "newline-escapes": lambda: _post(ADD, _filled(b'["', b"\\n", b'"]')),
    "names-in-one-object": lambda: _post(ADD, b"{%b}" % _names(90_000)),
    "names-of-one-letter-twice": lambda: _post(ADD, _filled(b"{", b'"a":1,', b'"a":1}')),
    "names-given-twice": lambda: _post(ADD, b"{%b,%b}" % (_names(45_000), _names(45_000))),
    "known-name-given-often": lambda: _post(ADD, _filled(b"{", b'"accountId":"a",', b'"accountId":"a"}')),
    "objects-with-a-name-twice": lambda: _post(ADD, _filled(b"[", b'{"a":1,"a":2},', b"1]")),
    "integers-of-4299-digits": lambda: _post(ADD, _filled(b"[", b"7" * 4_299 + b",", b"1]")),
    "integers-of-500-digits": lambda: _post(ADD, _filled(b"[", b"7" * 500 + b",", b"1]")),
    "one-integer-of-a-mebibyte": lambda: _post(ADD, _filled(b'{"createAt":', b"7", b"}")),
    "create-at-of-4299-digits-in-many-names": lambda: _post(
        DESTROY, _filled(b"{", b'"createAt":%b,' % (b"7" * 4_299), b'"a":1}', SMALL)
    ),
    "white-space": lambda: _post(ADD, b" " * MIB),
    "line-feeds-before-an-error": lambda: _post(ADD, b"\n" * (MIB - 1) + b"x"),
    "not-utf-8-at-the-end": lambda: _post(ADD, b'["' + b"a" * (MIB - 3) + b"\xff"),
    "cut-in-the-last-byte": lambda: _post(ADD, _addressees(ID)[:-1]),
    "nul-bytes": lambda: _post(ADD, b"\0" * MIB),
    "byte-order-marks": lambda: _post(ADD, "\ufeff".encode() * (MIB // 3)),
    "constants": lambda: _post(ADD, _filled(b"[", b"NaN,", b"1]")),
    "one-long-name": lambda: _post(ADD, _filled(b'{"', b"n", b'":1}')),
    "one-long-name-of-surrogates": lambda: _post(ADD, _filled(b'{"', b"\\ud800", b'":1}')),
    "one-long-string": lambda: _post(ADD, _filled(b'{"accountId":"', b"A", b'"}')),
}

_VALIDATING: Final[dict[str, Maker]] = {
    "wrong-addressees": _add(_addressees("I" + ID[1:])),
    "short-wrong-addressees": _add(_addressees("x", 100)),
    "addressees-of-other-types": lambda: _post(
        ADD, _json({"accountId": ID, "messages": [{"text": "a", "toAccountIds": [1] * 1_000}] * 39})
    ),
    "empty-addressees": _add(_addressees("", 39)),
    "too-many-addressees": _add(_addressees(ID, 18, 2_000)),
    "valid-addressees": _add(_addressees(ID)),
    "valid-addressees-with-a-key": _add(_addressees(ID), _KEY),
    "valid-different-addressees": lambda: _post(
        ADD, _texts(*["a"] * 36, toAccountIds=[ID[:-4] + f"{n:04X}" for n in range(1_000)]), _KEY
    ),
    "lower-case-addressees": _add(_addressees(ID.lower())),
    "addressees-and-one-unknown-name": lambda: _post(ADD, _addressees(ID)[:-1] + b',"x":1}'),
    "addressees-and-a-name-twice": lambda: _post(ADD, _addressees(ID)[:-1] + b',"accountId":"x"}'),
    "unknown-names-in-each-message": lambda: _post(
        ADD, _OPEN + b"[" + b",".join([b'{"text":"a",%b}' % _names(1_150)] * 80) + b"]}"
    ),
    "unknown-names-in-few-messages": lambda: _post(
        ADD, _OPEN + b"[" + b",".join([b'{"text":"a",%b}' % _names(14)] * 90) + b"]}"
    ),
    "unknown-names-up-to-the-bound": lambda: _post(ADD, _OPEN + b'[{"text":"a"}],%b}' % _names(1_490)),
    "unknown-long-names": lambda: _post(ADD, b"{%b}" % b",".join(b'"%b%d":1' % (b"n" * 690, n) for n in range(1_490))),
    "unknown-names-of-surrogates": lambda: _post(ADD, b"{%b}" % b",".join(b'"\\ud800%d":1' % n for n in range(1_490))),
    "unknown-names-on-destroy": lambda: _post(DESTROY, b"{%b}" % _names(18_000)),
    "unknown-names-on-destroy-up-to-the-bound": lambda: _post(DESTROY, b"{%b}" % _names(999)),
    "messages-that-are-numbers": lambda: _post(ADD, _filled(_OPEN + b"[", b"1,", b"1]}", 80_000)),
    "messages-that-are-strings": lambda: _post(ADD, _filled(_OPEN + b"[", b'"",', b'""]}', 110_000)),
    "messages-that-are-empty": lambda: _post(ADD, _filled(_OPEN + b"[", b"{},", b"{}]}", 2_900)),
    "messages-beyond-a-hundred": lambda: _post(ADD, _texts(*["a"] * 700)),
    "message-ids-in-lower-and-upper-case": lambda: _post(
        ADD, _json({"accountId": ID, "messages": [{"text": "a", "messageId": m} for m in (ID, ID.lower()) * 50]})
    ),
    "long-message-ids": lambda: _post(
        ADD, _json({"accountId": ID, "messages": [{"text": "a", "messageId": "\u00df" * 5_000}] * 100})
    ),
    "members-up-to-the-limit": lambda: _post(JOIN, _json({"accountId": ID, "accountIds": [ID] * 1_000})),
    "members-over-the-limit": lambda: _post(JOIN, _json({"accountId": ID, "accountIds": [ID] * 4_500})),
    "wrong-members": lambda: _post(JOIN, _json({"accountId": ID, "accountIds": ["x"] * 1_000})),
    "wrong-members-over-the-limit": lambda: _post(JOIN, _json({"accountId": ID, "accountIds": ["x"] * 5_900})),
    "wrong-members-of-surrogates": lambda: _post(
        JOIN, b'{"accountId":"%b","accountIds":[%b]}' % (ID.encode(), b",".join([b'"\\ud800"'] * 1_000))
    ),
    "wrong-accounts-on-create": lambda: _post(
        CREATE, _json({"accountId": "x", "title": "", "administratorIds": ["x"] * 1_000, "memberIds": [""] * 1_000})
    ),
    "both-lists-wrong-on-leave": lambda: _post(
        LEAVE, _json({"accountId": "x", "administratorIds": ["x"] * 1_000, "accountIds": [1] * 1_000})
    ),
    "wrong-message-ids-on-remove": lambda: _post(REMOVE, _json({"accountId": ID, "messageIds": [ID + "A"] * 1_000})),
    "body-of-an-array": lambda: _post(ADD, _json([{"accountId": ID}] * 500)),
    "large-body-on-destroy": lambda: _post(DESTROY, b'{"accountId":"%b"%b}' % (ID.encode(), b" " * (SMALL - 50))),
    "body-over-the-limit-of-destroy": lambda: _post(DESTROY, b" " * (SMALL + 1)),
}

_COMBINING: Final = "".join(chr(code) for code in (0x0315, 0x0301, 0x0327, 0x0328, 0x0345, 0x05B0, 0x3099))


def _marks(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(_COMBINING, k=count))


_NORMALISING: Final[dict[str, Maker]] = {
    "title-of-combining-marks": lambda: _post(CREATE, _title("a" + _marks(60_000, 1))),
    "title-of-two-marks-in-turn": lambda: _post(CREATE, _title("a" + "\u0315\u0301" * 30_000)),
    "title-of-marks-within-four-limits": lambda: _post(CREATE, _title("a" + _marks(1_019, 2))),
    "title-of-thirty-marks": lambda: _post(CREATE, _title(("a" + _marks(30, 3)) * 8)),
    "title-that-grows": lambda: _post(CREATE, _title(_GROWS * 85)),
    "text-of-combining-marks": lambda: _post(ADD, _texts("a" + _marks(500_000, 4))),
    "texts-of-combining-marks": lambda: _post(ADD, _texts(*["a" + _marks(4_000, 5)] * 100)),
    "texts-of-marks-within-four-limits": lambda: _post(ADD, _texts(*["a" + _marks(15_999, 6)] * 32)),
    "texts-of-thirty-marks": lambda: _post(ADD, _texts(*[("a" + _marks(30, 7)) * 129] * 100)),
    "texts-of-thirty-marks-within-four-limits": lambda: _post(ADD, _texts(*[("a" + _marks(30, 8)) * 516] * 30)),
    "texts-of-thirty-one-marks-at-the-end": lambda: _post(
        ADD, _texts(*[("a" + _marks(30, 9)) * 128 + _marks(31, 10)] * 100)
    ),
    "texts-of-one-mark-each": lambda: _post(ADD, _texts(*["e\u0301" * 2_000] * 100)),
    "texts-of-one-mark-each-with-a-key": lambda: _post(ADD, _texts(*["e\u0301" * 2_000] * 100), _KEY),
    "texts-that-grow": lambda: _post(ADD, _texts(*[_GROWS * 1_330] * 100)),
    "texts-that-grow-with-a-key": lambda: _post(ADD, _texts(*[_GROWS * 1_330] * 100), _KEY),
    "texts-that-grow-within-four-limits": lambda: _post(ADD, _texts(*[_GROWS * 16_000] * 16)),
    "texts-that-grow-and-one-wrong": lambda: _post(ADD, _texts(*[_GROWS * 1_330] * 99, "")),
    "texts-that-grow-in-too-many-messages": lambda: _post(ADD, _texts(*[_GROWS * 1_330] * 101)),
    "texts-of-excluded-compositions": lambda: _post(ADD, _texts(*["\ufb2c" * 1_333] * 100)),
    "texts-of-singletons": lambda: _post(ADD, _texts(*["\u2126" * 4_000] * 80)),
    "texts-of-jamo": lambda: _post(ADD, _texts(*["\u1100\u1161\u11a8" * 1_160] * 100)),
    "texts-of-composed-greek": lambda: _post(ADD, _texts(*["\u03b1\u0313\u0300\u0345" * 1_000] * 100)),
    "texts-of-composed-greek-within-four-limits": lambda: _post(
        ADD, _texts(*["\u03b1\u0313\u0300\u0345" * 4_000] * 32)
    ),
    "texts-of-surrogates": lambda: _post(ADD, _OPEN + b"[" + b",".join([b'{"text":"%b"}' % (b"\\ud800" * 1_600)] * 100) + b"]}"),
    "texts-of-ascii": lambda: _post(ADD, _texts(*["a" * 4_000] * 100)),
    "texts-of-commas-and-brackets": lambda: _post(ADD, _texts(*["[{,:}]" * 660] * 100)),
    "texts-of-quotes": lambda: _post(ADD, _texts(*['"' * 4_000] * 100)),
    "texts-of-nul": lambda: _post(ADD, _texts(*["\0" * 1_700] * 100)),
    "texts-too-long": lambda: _post(ADD, _texts(*["\u00e9" * 5_000] * 100)),
    "combining-unknown-name": lambda: _post(ADD, _json({"a" + _marks(400_000, 11): 1})),
    "combining-account": lambda: _post(ADD, _json({"accountId": _marks(400_000, 12)})),
}  # fmt: skip


def _query(query: str, target: str = f"/v1/threads/{THREAD}/messages") -> bytes:
    return request("GET", f"{target}?{query}")


_HEADS: Final[dict[str, Maker]] = {
    "unknown-parameters": lambda: _query("&".join(["a"] * 4_000)),
    "unknown-different-parameters": lambda: _query("&".join(f"{n:x}=" for n in range(1_500))),
    "empty-parameters": lambda: _query("&" * 8_000),
    "parameter-given-often": lambda: _query("&".join([f"account_id={ID}"] * 200)),
    "percent-encoded-parameter": lambda: _query("cursor=" + "%41" * 2_700),
    "percent-encoded-surrogates": lambda: _query("account_id=" + "%ed%a0%80" * 880),
    "percent-encoded-name": lambda: _query("%C3%A9" * 1_300 + "=1"),
    "plus-signs": lambda: _query("account_id=" + "+" * 8_000),
    "long-limit": lambda: _query(f"account_id={ID}&limit=" + "9" * 8_000),
    "long-cursor": lambda: _query(f"account_id={ID}&cursor=" + "A" * 8_000),
    "cursor-of-no-message-pack": lambda: _query(f"account_id={ID}&cursor=" + "_" * 200),
    "parameters-on-a-command": lambda: _post(f"{DESTROY}?" + "&".join(["a"] * 4_000), b"{}"),
    "lines-of-unknown-parameters": lambda: _query("&".join(["a"] * 4_000)) * 60,
    "long-path": lambda: request("GET", "/v1/threads/" + "a" * 8_000),
    "path-of-slashes": lambda: request("GET", "/" * 8_000),
    "path-of-percents": lambda: request("GET", "/v1/threads/" + "%41" * 2_600 + "/messages"),
    "get-absolute-target-of-punycode": lambda: request("GET", "http://xn--xn--/v1/threads"),
    "absolute-target-of-brackets": lambda: request("GET", "http://[::/v1/threads"),
    "absolute-target-with-a-port-of-letters": lambda: request("GET", "http://localhost:x/docs"),
    "long-absolute-target": lambda: request("GET", "http://" + "a." * 4_000 + "/docs"),
    "authority-target": lambda: request("OPTIONS", "localhost:80"),
    "star-target": lambda: request("OPTIONS", "*"),
    "media-type-of-semicolons": lambda: request("POST", ADD, "Content-Type: application/json" + ";" * 8_000),
    "long-idempotency-key": lambda: _post(DESTROY, b"{}", "Idempotency-Key: " + "k" * 8_000),
    "many-idempotency-keys": lambda: _post(DESTROY, b"{}", *["Idempotency-Key: k"] * 120),
    "long-origin": lambda: request("GET", "/docs", "Origin: http://" + "a" * 8_000),
    "many-long-fields": lambda: request("GET", "/nothing", *[f"X-{n}: {'a' * 8_000}" for n in range(100)]),
    "many-short-fields": lambda: request("GET", "/nothing", *[f"x{n}:" for n in range(120)]),
    "pipelined-404": lambda: request("GET", "/nothing") * 2_000,
    "pipelined-405": lambda: request("PUT", "/docs") * 2_000,
    "pipelined-options": lambda: request("OPTIONS", ADD) * 2_000,
    "pipelined-415": lambda: request("POST", ADD) * 2_000,
    "pipelined-400": lambda: _post(DESTROY, b"{}") * 1_000,
    "pipelined-bodies-of-names": lambda: _post(DESTROY, b"{%b}" % _names(240)) * 30,
    "pipelined-documents": lambda: request("GET", "/openapi.json") * 100,
    "pipelined-creates": lambda: _post(CREATE, _title("t")) * 500,
}  # fmt: skip


def _random_body(seed: int) -> bytes:
    """A body of about 1 MiB put together from what is expensive in one way or another."""
    chance = random.Random(seed)
    text = chance.choice(
        ["a" * 4_000, _GROWS * 1_330, "e\u0301" * 2_000, ("a" + _marks(30, seed)) * 129, "[,:]" * 900, ""]
    )
    members: list[Callable[[], bytes]] = [
        lambda: b'"text":' + _json(text),
        lambda: b'"text":' + _json(chance.choice(["a", "\0", _marks(31, seed)])),
        lambda: b'"toAccountIds":' + _json([chance.choice([ID, "x", 1, None])] * chance.choice([1, 999, 1_001])),
        lambda: b'"messageId":' + _json(chance.choice([ID, ID.lower(), "x", 7])),
        lambda: _names(chance.randrange(1, 30), chance.choice([b"[]", b"{}", b"1", b"9" * 400])),
        lambda: b'"x":' + b"[" * 5 + b"]" * 5,
    ]
    messages: list[bytes] = []
    size = 0
    while size < chance.choice([50_000, 400_000, 1_000_000]) and len(messages) < chance.choice([20, 100, 150]):
        messages.append(b"{%b}" % b",".join(chance.choice(members)() for _ in range(chance.randrange(1, 5))))
        size += len(messages[-1]) + 1
    return (_OPEN + b"[" + b",".join(messages) + b"]}")[:MIB]


_RANDOM: Final[dict[str, Maker]] = {
    f"random-body-{seed}": lambda seed=seed: _post(ADD, _random_body(seed), *([_KEY] if seed % 2 else []))  # type: ignore[misc]  # a default binds the loop's value
    for seed in range(24)
}

INPUTS: Final[tuple[HostileInput, ...]] = of_bytes({**_DECODING, **_VALIDATING, **_NORMALISING, **_HEADS, **_RANDOM})
"""All of them."""
