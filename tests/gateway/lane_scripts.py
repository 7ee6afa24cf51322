"""Scripts for `lane_pair`: requests of every kind, and how they are cut, answered and ended, all from one random generator."""

import json
import random
from dataclasses import replace
from typing import Any, Final

from shard_worker.gateway.http.options import GatewayOptions
from tests.gateway.lane_pair import Script

_ACCOUNTS: Final = [f"01ARZ3NDEKTSV4RRFFQ69G5FA{last}" for last in "ABCD"]
_THREADS: Final = [f"01BX5ZZKBKACTAV9WEVGEMMVR{last}" for last in "ZY"]
_MESSAGES: Final = [f"01BX5ZZKBKACTAV9WEVGEMM{last}AA" for last in "01234"]
_KEYS: Final = ("k1", "k2", "x" * 128)

_OPTIONS: Final = GatewayOptions(documentation=False, id_salt=b"s")
_OF_OPTIONS: Final = (
    *(_OPTIONS,) * 3,
    replace(_OPTIONS, cors_origins=("https://chat.example",)),
    replace(_OPTIONS, cors_origins=("*",)),
    replace(_OPTIONS, allowed_hosts=("127.0.0.1", "chat.example")),
)

_HARMLESS: Final = (
    *("User-Agent: curl/8", "Accept: */*", "Accept-Encoding: gzip, br", "accept: application/json", "Cookie: a=b; c=d"),
    *(
        "X-Request-Id: 7",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Empty:",
        "X-A:\tb  ",
    ),
    *("Connection: keep-alive", "connection: Keep-Alive", "Authorization: Bearer x", "X-Forwarded-For: 10.0.0.1"),
)
_ODD: Final = (
    *("Connection: close", "Connection: Upgrade\r\nUpgrade: websocket", "Expect: 100-continue", "Upgrade: h2c"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Encoding: gzip", "Content-Encoding: identity"),
    *("Origin: https://chat.example", "Origin: https://other.example", "Host: other.example", "Host: 127.0.0.1"),
    *(
        "Content-Type: text/plain",
        "Content-Type: application/json",
        "Content-Length: 5",
        "Content-Length: 00",
        "TE: trailers",
    ),
    *(
        "User-Agent: a\r\nUser-Agent: b",
        "X Y: z",
        ": empty",
        "X-Nul: a\0b",
        "X-High: \u00e4",
        "X-Bare: a\rb",
        "X-Feed: a\nb",
    ),
    *(" folded", "X-Folded: a\r\n b", "Proxy-Connection: close", "Keep-Alive: timeout=5", "Sec-WebSocket-Key1: a"),
    *(
        "Idempotency-Key: ",
        "Idempotency-Key: a b",
        "Idempotency-Key: \u00e4",
        "Idempotency-Key: " + "y" * 129,
        "NoColon",
    ),
    *(
        "Connection: keep-alive, close",
        "Connection: \x7f",
        "Server: a\r\nServer: b",
        "Max-Forwards: 1\r\nMax-Forwards: 1",
    ),
)
_TYPES: Final = ("application/json",) * 8 + (
    *(
        "Application/JSON; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=latin1",
        "text/json",
    ),
)


def _ids(chance: random.Random, among: list[str], least: int = 0) -> list[str]:
    return [chance.choice(among) for _ in range(chance.choice((least, 1, 1, 2, 3)) or least)]


def _text(chance: random.Random) -> str:
    return chance.choice(
        ("hello", "a: b", "\u00e4\u00f6 \u65e5", "e\u0301", "line\nline", 'quote " \\', "x" * 255, "\x7f", "::")
    )


def _message(chance: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"text": _text(chance)}
    if chance.random() < 0.3:
        message["messageId"] = chance.choice(_MESSAGES)
    if chance.random() < 0.2:
        message["replyMessageId"] = chance.choice(_MESSAGES)
    if chance.random() < 0.2:
        message["toAccountIds"] = _ids(chance, _ACCOUNTS)
    return message


def _command(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """The path and the body of a good command."""
    account = chance.choice(_ACCOUNTS[:2])
    body: dict[str, Any] = {"accountId": account}
    if chance.random() < 0.3:
        body["createAt"] = chance.choice((0, 5, 2**53 - 1))
    base = f"/v1/threads/{chance.choice(_THREADS)}"
    kind = chance.choice(
        ("create", "add", "add", "add", "remove", "join", "leave", "administrators", "resign", "destroy")
    )
    match kind:
        case "create":
            body |= {"title": _text(chance), "administratorIds": _ids(chance, _ACCOUNTS, 1)}
            body["memberIds"] = _ids(chance, _ACCOUNTS)
            if chance.random() < 0.7:
                body["threadId"] = chance.choice(_THREADS)
            if chance.random() < 0.3:
                body["remarks"] = chance.choice((_text(chance), ""))
            if chance.random() < 0.2:
                body["parentThreadId"] = chance.choice(_THREADS)
            return "/v1/threads/create", body
        case "add":
            body["messages"] = [_message(chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
            return f"{base}/messages/add", body
        case "remove":
            return f"{base}/messages/remove", body | {"messageIds": _ids(chance, _MESSAGES)}
        case "join":
            return f"{base}/member-ids/join", body | {"accountIds": _ids(chance, _ACCOUNTS)}
        case "leave":
            return f"{base}/member-ids/leave", body | {"accountIds": _ids(chance, [account, *_ACCOUNTS])}
        case "administrators":
            return f"{base}/administrator-ids/join", body | {"accountIds": _ids(chance, _ACCOUNTS, 1)}
        case "resign":
            name = chance.choice(("administratorIds", "administratorIds", "accountIds"))
            return f"{base}/administrator-ids/leave", body | {name: _ids(chance, _ACCOUNTS, 1)}
        case _:
            return f"{base}/destroy", body


_QUERY_VALUES: Final = (
    *("limit=1", "limit=20", "offset=1", "offset=100", "min_sequence_nr=0", "min_sequence_nr=1", "min_sequence_nr=9"),
    *[f"{side}={message}" for side in ("before", "after", "around") for message in _MESSAGES[:2]],
)
_ODD_VALUES: Final = (
    *("limit=0", "limit=1001", "limit=01", "limit=", "limit", "limit=1&limit=2", "limit=%31", "limit=1+", "more=1"),
    *(
        "offset=-1",
        "offset=9223372036854775808",
        "cursor=abc",
        "cursor=",
        "min_sequence_nr=x",
        "after=0",
        "",
        "&",
        "=",
        "a=b=c",
    ),
    *(
        f"account_id={_ACCOUNTS[1]}",
        "account_id=",
        f"before={_MESSAGES[0]}&after={_MESSAGES[1]}",
        "around=01BX5",
        "limit=1#2",
    ),
)


def _query(chance: random.Random) -> str:
    """The target of a query; most are good ones."""
    account = chance.choice((*_ACCOUNTS[:2], *_ACCOUNTS[:2], _ACCOUNTS[3], _ACCOUNTS[0].lower()))
    values = [f"account_id={account}", *chance.sample(_QUERY_VALUES, chance.choice((0, 0, 1, 1, 2)))]
    if chance.random() < 0.2:
        values.append(chance.choice(_ODD_VALUES))
    if chance.random() < 0.05:
        del values[0]
    chance.shuffle(values)
    tail = chance.choice(("", "/administrator-ids", "/member-ids", "/messages", "/messages", "/messages"))
    return f"/v1/threads/{chance.choice(_THREADS)}{tail}" + chance.choice("??????%&") + "&".join(values)


def _spoilt(chance: random.Random, path: str, raw: bytes) -> tuple[str, bytes]:
    """Something is wrong with the target, or with the body."""
    match chance.randrange(9):
        case 0:
            return path + chance.choice(("/", "?", "?a=1", "x", "#f", "%41")), raw
        case 1:
            return path.replace("01BX", chance.choice(("01bx", "81BX", "01BU", "01B\u00e4", "0"))), raw
        case 2:
            return path.replace("/v1/", chance.choice(("/v2/", "//v1/", "http://127.0.0.1/v1/", "/V1/"))), raw
        case 3:
            return path.replace("threads", "accounts"), raw
        case 4:
            at = chance.randrange(len(raw) + 1)
            return path, raw[:at] + chance.choice(
                (b"", b"\0", b"\xff", b'"', b"}", b" ", b"\\u0000", b"\\u003a", b"null")
            ) + raw[at + 1 :]
        case 5:
            return path, raw.replace(b'"accountId"', b'"accountId":"01ARZ3NDEKTSV4RRFFQ69G5FAA","accountId"')
        case 6:
            return path, raw.replace(
                b'"text": "', b'"text": "b","text": "' + chance.choice((b"\\u003a", b"\\u0000", b""))
            )
        case 7:
            return path, raw.replace(b"01ARZ", b"01arz")
        case _:
            return path, chance.choice((b"", b"[]", b"{}", b"null", b"\xef\xbb\xbf" + raw, raw + b" " * 3_000, raw * 2))


def _request(chance: random.Random) -> bytes:
    """One request; most are plain commands."""
    path, body = _command(chance)
    raw = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode()
    raw += b" " * chance.choice((0, 0, 0, 1, 5))
    odd = chance.random() < 0.35
    if odd and chance.random() < 0.5:
        path, raw = _spoilt(chance, path, raw)
    method, version = "POST", "HTTP/1.1"
    host = chance.choice(("127.0.0.1:8080", "chat.example"))
    lines = [f"Host: {host}", f"Content-Type: {chance.choice(_TYPES)}", f"Content-Length: {len(raw)}"]
    if chance.random() < 0.35:
        method, path = "GET", _query(chance)
        if odd and chance.random() < 0.3:
            path, _ = _spoilt(chance, path, b"{}")
        if not odd or chance.random() < 0.8:
            raw, lines = b"", [lines[0]]
            lines += chance.sample(
                ("Content-Type: application/json", "Content-Length: 0"), chance.choice((0, 0, 0, 1, 2))
            )
    if chance.random() < 0.3:
        lines.append(f"Idempotency-Key: {chance.choice(_KEYS)}")
    lines += chance.sample(_HARMLESS, chance.randrange(4))
    if odd:
        match chance.randrange(6):
            case 0:
                method = chance.choice(("GET", "PUT", "post", "HEAD", "OPTIONS"))
            case 1:
                version = chance.choice(("HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", " HTTP/1.1"))
            case 2:
                lines.remove(chance.choice(lines))
            case 3:
                lines.append(chance.choice(lines))
            case _:
                lines.append(chance.choice(_ODD))
    chance.shuffle(lines)
    head = f"{method} {path} {version}\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return head.encode("utf-8") + raw


def _cut(chance: random.Random, requests: list[bytes]) -> list[bytes]:
    """As segments: nearly always each request is one."""
    match chance.randrange(10):
        case 0:
            return [b"".join(requests)]
        case 1:
            whole = b"".join(requests)
            places = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.randrange(1, 6)))
            return [
                whole[begin:end] for begin, end in zip([0, *places], [*places, len(whole)], strict=True) if end > begin
            ]
        case 2:
            return [part for request in requests for part in (request[:-1], request[-1:])]
        case 3:
            return [b"\r\n" + request if chance.random() < 0.5 else request + b"\r\n" for request in requests]
        case _:
            return requests


def _by_chance(seed: int) -> Script:
    """Requests of every kind, cut, answered and ended in every way."""
    chance = random.Random(seed)
    requests = [_request(chance) for _ in range(chance.randrange(1, 6))]
    steps: list[tuple[str, bytes]] = []
    for segment in _cut(chance, requests):
        steps.append(("data", segment))
        while chance.random() < 0.45:
            steps.append(("release", b""))
        if chance.random() < 0.05:
            steps.append((chance.choice(("eof", "leave", "full", "read", "lost")), b""))
    if chance.random() < 0.3:
        steps.append(("eof", b""))
    steps += [("read", b""), *[("release", b"")] * len(requests)]
    return Script(steps, chance.choice(("h", "h", "hn", "n", "he", "hm", "hhb")), chance.choice(_OF_OPTIONS))


_LINES: Final = ("Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: {length}")
_FIELD_FAULTS: Final = (
    *[(*_LINES, odd) for odd in _ODD],
    *[tuple(line for line in _LINES if line != missing) for missing in _LINES],
    *[(*_LINES, twice) for twice in (*_LINES, "Idempotency-Key: k1\r\nIdempotency-Key: k2")],
    ("Host: other.example", *_LINES[1:]),
)
"""Fields of a plain command, each with one fault."""
_FIRST_LINE_FAULTS: Final = (
    *[("HTTP/1.1", version) for version in ("HTTP/1.0", "HTTP/1.2", "HTTP/1.1 ", "http/1.1")],
    *[("/add", f"/add{more}") for more in ("?", "?a=1", "/", "#a", "%20", " ")],
    *[("POST ", f"{method} ") for method in ("GET", "PUT", "HEAD", "OPTIONS", "post", "POST ", "CONNECT")],
    *[("01BX5", start) for start in ("01bx5", "81BX5", "01BU5", "01BX", "01BX5%41")],
    *[("/v1/", start) for start in ("/v2/", "//v1/", "http://127.0.0.1/v1/", "http://other.example/v1/", "/V1/")],
)
"""Pieces of the first line of a plain command, each with the fault that takes its place."""


_BODY_FAULTS: Final = tuple(
    b'{"accountId":"%b","messages":[{%b}]%b}' % (_ACCOUNTS[0].encode(), message, more)
    for message, more in (
        *[
            (text, b"")
            for text in (b'"text":"a\\u0000"', b'"text":"a","text":"b"', b'"text":"a","text":"\\u003a"', b'"text":""')
        ],
        *[
            (text, b"")
            for text in (b'"text":"a\0b"', b'"text":"\xff"', b'"text":"\\ud800"', b'"text":null', b'"text":"a:b"')
        ],
        *[
            (b'"text":"a"', more)
            for more in (b',"createAt":1.0', b',"createAt":-1', b',"createAt":null', b',"more":1', b"}")
        ],
        *[(b'"text":"a"', more) for more in (b',"accountId":"x"', b' ,"createAt":9007199254740992', b" " * 2_100)],
        (b'"text":"e\xcc\x81"', b""),
        (b'"text":"a","messageId":"01arz3ndektsv4rrffq69g5faa"', b""),
    )
)
"""Bodies of a plain command, nearly all with one fault."""


_FAULTS: Final[tuple[bytes | tuple[str, ...], ...]] = (*_FIELD_FAULTS, *_FIRST_LINE_FAULTS, *_BODY_FAULTS)


def _asked(target: str, lines: tuple[str, ...] = _LINES[:1], fault: tuple[str, str] = ("-", "-")) -> bytes:
    first = f"GET {target} HTTP/1.1".replace(*fault)
    return (f"{first}\r\n" + "\r\n".join(lines).format(length=0) + "\r\n\r\n").encode()


def _posted(
    path: str, body: dict[str, Any] | bytes, lines: tuple[str, ...] = _LINES, fault: tuple[str, str] = ("-", "-")
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    first = f"POST {path} HTTP/1.1".replace(*fault)
    head = f"{first}\r\n" + "\r\n".join(lines).format(length=len(raw)) + "\r\n\r\n"
    return head.encode() + raw


def _one_fault(seed: int) -> Script:
    """A plain command whose head has one fault, and one without after it."""
    chance = random.Random(seed)
    body = {"accountId": _ACCOUNTS[0], "messages": [{"text": "hello"}]}
    path = f"/v1/threads/{_THREADS[0]}/messages/add"
    fault = _FAULTS[seed % len(_FAULTS)]
    if isinstance(fault, bytes):
        faulty = _posted(path, fault)
    elif fault in _FIELD_FAULTS:
        faulty = _posted(path, body, fault)
    else:
        faulty = _posted(path, body, fault=(fault[0], fault[1]))
    steps = [("data", faulty), ("release", b""), ("data", _posted(path, body)), ("release", b"")]
    options = chance.choice(_OF_OPTIONS)
    if b"Origin" in faulty:
        options = _OF_OPTIONS[3]
    elif b"other.example" in faulty:
        options = _OF_OPTIONS[-1]
    return Script(steps, chance.choice(("h", "n", "e")), options)


_OF_GETS: Final = (
    *[("HTTP/1.1", version) for version in ("HTTP/1.0", "HTTP/1.2", "HTTP/1.1 ", "http/1.1")],
    *[("GET ", f"{method} ") for method in ("POST", "HEAD", "OPTIONS", "get", "GET ", "DELETE")],
    *[("01BX5", start) for start in ("01bx5", "81BX5", "01BU5", "01BX", "01BX5%41")],
    *[("/v1/", start) for start in ("/v2/", "//v1/", "http://127.0.0.1/v1/", "http://other.example/v1/", "/V1/")],
    *[("limit=2", value) for value in (*_ODD_VALUES, *_QUERY_VALUES)],
    *[
        ("/messages?", tail)
        for tail in (
            "?",
            "/member-ids?",
            "/administrator-ids?",
            "/messages/?",
            "/messages",
            "/events?",
            "/messages/add?",
        )
    ],
    *[("account_id", name) for name in ("account-id", "accountId", "Account_id", "account%5Fid", "limit=1&account_id")],
)
"""Pieces of a plain query, each with the fault, or the other value, that takes its place."""
_OF_GET_FIELDS: Final = (
    *[(_LINES[0], odd) for odd in _ODD],
    *[
        (_LINES[0], more)
        for more in (
            *_LINES,
            "Content-Length: 7",
            "Idempotency-Key: k1",
            "Content-Type: text/plain",
            "Range: bytes=0-1",
        )
    ],
    ("Host: other.example",),
    ("X-Request-Id: 7",),
)


def _one_get(seed: int) -> Script:
    """A plain query with one fault, and one without after it; and the message that is asked for."""
    chance = random.Random(seed)
    target = f"/v1/threads/{_THREADS[0]}/messages?account_id={_ACCOUNTS[0]}&limit=2"
    faults: tuple[tuple[str, ...], ...] = (*_OF_GETS, *_OF_GET_FIELDS)
    fault = faults[seed % len(faults)]
    faulty = _asked(target, fault) if fault in _OF_GET_FIELDS else _asked(target, fault=(fault[0], fault[1]))
    made = {
        "accountId": _ACCOUNTS[0],
        "messages": [{"text": "a", "messageId": _MESSAGES[0]}, {"text": "b"}, {"text": "c"}],
    }
    sent = (
        _posted(f"/v1/threads/{_THREADS[0]}/messages/add", made),
        _asked(target),
        faulty,
        _asked(target),
        _asked(target),
    )
    steps = [step for each in sent for step in (("data", each), ("release", b""))]
    if chance.random() < 0.1:
        steps.insert(-2, ("leave", b""))
    options = chance.choice(_OF_OPTIONS)
    if b"Origin" in faulty:
        options = _OF_OPTIONS[3]
    elif b"other.example" in faulty:
        options = _OF_OPTIONS[-1]
    return Script(steps, chance.choice(("h", "n", "e", "m")), options)


def _other_order(seed: int) -> Script:
    """Good requests alone, and what else may happen to a connection, in any order."""
    chance = random.Random(seed)
    body = {"accountId": _ACCOUNTS[0], "messages": [{"text": "hello"}]}
    lines = (*_LINES, "Idempotency-Key: k1") if chance.random() < 0.5 else _LINES
    good = _posted(f"/v1/threads/{_THREADS[0]}/messages/add", body, lines)
    read = _asked(f"/v1/threads/{_THREADS[0]}?account_id={_ACCOUNTS[0]}")
    sent = (
        *[good] * 5,
        *[read] * 3,
        read + good,
        read[:30],
        read[30:],
        good + good,
        good + good[:40],
        good[40:],
        good[:200],
        good[200:],
        b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
    )
    steps = [("data", good)]
    for _ in range(chance.randrange(3, 9)):
        name = chance.choice(
            ("data", "data", "data", "release", "release", "release", "full", "read", "eof", "leave", "lost")
        )
        steps.append((name, chance.choice(sent) if name == "data" else b""))
    return Script([*steps, ("read", b""), *[("release", b"")] * 5], chance.choice(("h", "h", "hn", "e", "m", "hb")))


def _after_creation(script: Script) -> Script:
    """Two threads are created first, so that commands find something to change."""
    made = {"accountId": _ACCOUNTS[0], "title": "t", "administratorIds": _ACCOUNTS[:1], "memberIds": _ACCOUNTS[:2]}
    steps = [("data", _posted("/v1/threads/create", made | {"threadId": thread})) for thread in _THREADS]
    return replace(script, steps=[step for each in steps for step in (each, ("release", b""))] + script.steps)


def one_fault(seed: int) -> Script:
    """The faults of a request, one after the other."""
    return _after_creation(_one_fault(seed))


def other_order(seed: int) -> Script:
    """Everything that may happen to a connection, in any order."""
    return _after_creation(_other_order(seed))


def one_get(seed: int) -> Script:
    """The faults of a query, one after the other."""
    return _after_creation(_one_get(seed))


def by_chance(seed: int) -> Script:
    """Everything together."""
    return _after_creation(_by_chance(seed))


def any_script(seed: int) -> Script:
    """One of the four in turn."""
    return (one_fault, other_order, by_chance, one_get)[seed % 4](seed // 4)
