"""Every row of the API's table of errors, from the real server, in the one shape they all have."""

import json

import pytest

from shard_worker.contract import Answer, ReadThread, Request, Unavailable, UnavailableCode
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import RefusalCode
from shard_worker.gateway.http.problems import ProblemCode, status_of
from tests.fakes.elsewhere import Elsewhere
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, CAI, DAN, PARENT, THREAD, Served, serving
from tests.support.problem_checks import check
from tests.support.wire import JSON_TYPE, request_bytes

BASE = f"/v1/threads/{THREAD}"
UNKNOWN = "01BX5ZZKBKACTAV9WEVGEMMVR1"


def test_every_refusal_and_every_not_now_has_a_code() -> None:
    """The closed list contains those of the domain and of the owner, under their own names."""
    for code in (*RefusalCode, *UnavailableCode):
        assert status_of(ProblemCode(code.value)) in (403, 404, 409, 410, 503, 504)


@pytest.mark.parametrize(
    ("body", "failures"),
    [
        (b"", ["body: is empty"]),
        (b"{", ["body: Expecting property name enclosed in double quotes at line 1, column 2"]),
        (b"\xef\xbb\xbf{}", ["body: begins with a byte order mark"]),
        (b'"\xff"', ["body: is not UTF-8 at byte 1"]),
        (b'{"accountId": NaN}', ["body: NaN is not JSON"]),
        (b'{"createAt": 1%b}' % (b"0" * 5_000), ["body: an integer has more than 500 digits"]),
        (b'{"a": "\x00"}', ["body: Invalid control character at at line 1, column 8"]),
        (b"{} {}", ["body: Extra data at line 1, column 4"]),
    ],
    ids=["empty", "cut", "bom", "not utf-8", "nan", "huge", "control", "two values"],
)
async def test_400_what_is_not_json(api: Served, body: bytes, failures: list[str]) -> None:
    """The one failure says where it is."""
    answered = check(await api.post(BASE + "/destroy", body), 400, "malformed-json")
    assert answered.json["error_messages"] == failures


@pytest.mark.parametrize(
    ("body", "failures"),
    [
        ([], ["body: must be an object"]),
        ({}, ["accountId: is required"]),
        ({"accountId": 1}, ["accountId: must be a string"]),
        ({"accountId": None}, ["accountId: must be a string"]),
        ({"accountId": ADA, "x": 1}, ["x: is not a field of this request"]),
        ({"accountId": ADA, "account_id": ADA}, ["account_id: is not a field of this request"]),
        ({"accountId": ADA, "createAt": 1.0}, ["createAt: must be an integer without fraction or exponent"]),
        ({"accountId": ADA, "createAt": True}, ["createAt: must be an integer without fraction or exponent"]),
        ({"accountId": ADA, "createAt": "1"}, ["createAt: must be an integer without fraction or exponent"]),
        ({"accountId": ADA, "createAt": -1}, ["createAt: must be at least 0"]),
        ({"accountId": ADA, "createAt": 2**53}, [f"createAt: must be at most {2**53 - 1}"]),
        ({"accountId": ADA, "createAt": 10**400}, [f"createAt: must be at most {2**53 - 1}"]),
        *(
            ({"accountId": wrong}, ["accountId: must be a ULID: 26 Crockford characters, the first at most 7"])
            for wrong in ("", ADA[:-1], ADA + "A", "8" + ADA[1:], ADA[:-1] + "I", ADA[:-1] + "u", ADA + "\n", "١" * 26)
        ),
    ],
    ids=str,
)
async def test_400_a_wrong_field(api: Served, body: object, failures: list[str]) -> None:
    """The failure names the field as JSON does."""
    answered = check(await api.post(BASE + "/destroy", body), 400, "validation-failed")
    assert answered.json["error_messages"] == failures


async def test_400_a_number_with_an_exponent(api: Served) -> None:
    """``1e3`` is no integer, though it has an integer's value."""
    body = b'{"accountId": "%b", "createAt": 1e3}' % ADA.encode()
    answered = check(await api.post(BASE + "/destroy", body), 400, "validation-failed")
    assert answered.json["error_messages"] == ["createAt: must be an integer without fraction or exponent"]


async def test_400_lists_all_failures(api: Served) -> None:
    """Path, query, header, duplicate names and fields: everything that is wrong, at once."""
    body = (
        b'{"accountId": "x", "messages": [{"text": "", "text": ""}, {"text": "\\u0000", "messageId": "%b"}, '
        b'{"text": "a", "messageId": "%b", "toAccountIds": ["y"]}, {"text": "\\ud800"}, 7], "extra\\ud800": {"a": []}}'
        % (THREAD.encode(), THREAD.lower().encode())
    )
    answered = await api.post("/v1/threads/8/messages/add?a=1", body, ("Idempotency-Key", "a b"))
    assert [(error["pointer"], error["code"]) for error in answered.json["errors"]] == [
        ("/messages/0/text", "duplicate"),
        ("Idempotency-Key", "wrong-format"),
        ("a", "unknown"),
        ("id", "wrong-format"),
        ("/accountId", "wrong-format"),
        ("/messages/0/text", "wrong-length"),
        ("/messages/1/text", "forbidden-characters"),
        ("/messages/2/toAccountIds/0", "wrong-format"),
        ("/messages/3/text", "forbidden-characters"),
        ("/messages/4", "wrong-type"),
        ("/extra?", "unknown"),
        ("/messages/2/messageId", "duplicate"),
    ]
    assert check(answered, 400, "validation-failed").json["error_messages"] == [
        "text: duplicate field",
        "Idempotency-Key: must be 1 to 128 visible ASCII characters",
        "a: is not a parameter of this request",
        "threadId: must be a ULID: 26 Crockford characters, the first at most 7",
        "accountId: must be a ULID: 26 Crockford characters, the first at most 7",
        "messages[0].text: must have 1 to 4000 characters",
        "messages[1].text: must not contain U+0000",
        "messages[2].toAccountIds[0]: must be a ULID: 26 Crockford characters, the first at most 7",
        "messages[3].text: must not contain lone surrogates",
        "messages[4]: must be an object",
        "extra?: is not a field of this request",
        "messages[2].messageId: was given before",
    ]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", ("", "malformed-json", "Expecting property name enclosed in double quotes at line 1, column 2")),
        (b"[]", ("", "wrong-type", "must be an object")),
        (b"{}", ("/accountId", "required", "is required")),
        (b'{"accountId": "%b", "a/b~c": 1}' % ADA.encode(), ("/a~1b~0c", "unknown", "is not a field of this request")),
        (b'{"accountId": "%b", "createAt": -1}' % ADA.encode(), ("/createAt", "out-of-range", "must be at least 0")),
        (
            b'{"accountId": "%b", "accountId": "%b"}' % (2 * (ADA.encode(),)),
            ("/accountId", "duplicate", "duplicate field"),
        ),
        (
            b'{"accountId": "%b", "createAt": {"a": 1, "a": 2}, "createAt": 1}' % ADA.encode(),
            ("", "duplicate", "duplicate field"),
        ),
        (b"[" * 2_049, ("", "too-complex", "must have at most 250 arrays and objects")),
    ],
    ids=["malformed", "root", "missing", "escaped", "range", "twice", "twice in what was replaced", "complex"],
)
async def test_400_points_to_the_failure(api: Served, body: bytes, error: tuple[str, str, str]) -> None:
    """By a JSON pointer; that of a missing field is where it should be, that of the whole body is empty."""
    first = (await api.post(BASE + "/destroy", body)).json["errors"][0]
    assert (first["pointer"], first["code"], first["detail"]) == error


async def test_400_points_into_a_deep_body(api: Served) -> None:
    """An object with a name twice is found as deep as the decoder goes."""
    deep = b'{"a":[' * 150 + b'{"x":1,"x":2}' + b"]}" * 150
    first = (await api.post(BASE + "/destroy", deep)).json["errors"][0]
    assert first == {"pointer": "/a/0" * 150 + "/x", "code": "duplicate", "detail": "duplicate field"}


async def test_400_names_the_parameter(api: Served) -> None:
    """By its name alone."""
    for query, error in (
        ("", ("account_id", "required")),
        (f"account_id={ADA}&account_id={ADA}", ("account_id", "duplicate")),
        (f"account_id={ADA}&limit=0", ("limit", "out-of-range")),
        (f"account_id={ADA}&limit=x", ("limit", "wrong-format")),
        (f"account_id={ADA}&cursor=x", ("cursor", "foreign")),
        (f"account_id={ADA}&offset=1&cursor=x", ("cursor", "excluded")),
        ("&x" * 40, ("query", "too-complex")),
    ):
        problem = check(await api.get(f"{BASE}/messages?{query}"), 400, "validation-failed").json
        assert (problem["errors"][0]["pointer"], problem["errors"][0]["code"]) == error


async def test_400_counts_what_it_does_not_list(api: Served) -> None:
    """A body with thousands of faults gets the first thousand sentences."""
    message = {"text": "a", "toAccountIds": ["x"] * 1_000}
    answered = await api.post(BASE + "/messages/add", {"accountId": ADA, "messages": [message] * 3})
    problem = check(answered, 400, "validation-failed").json
    assert len(problem["error_messages"]) == 1_000
    assert len(problem["errors"]) == 1_000
    assert problem["error_messages"][-1].startswith("messages[0].toAccountIds[999]: ")
    assert problem["detail"].startswith("more than 1000 failures; the first: messages[0].toAccountIds[0]: ")


@pytest.mark.parametrize(
    ("path", "body", "failure"),
    [
        ("/destroy", b"[" * 100_000, "body: must have at most 250 arrays and objects"),
        ("/messages/add", b"[" * 100_000, "body: must have at most 1000 arrays and objects"),
        ("/destroy", b"[" + b"1," * 10_000 + b"1]", "body: must have at most 6000 values"),
        ("/destroy", b"{%b}" % b",".join(b'"%d":1' % number for number in range(1_001)), "body: must have at most 1000 fields"),
        ("/messages/add", b'"":' * 45_000, "body: must have at most 42500 strings"),
    ],
    ids=["deep", "deep messages", "values", "fields", "strings"],
)  # fmt: skip
async def test_400_names_the_bound_that_a_body_is_over(api: Served, path: str, body: bytes, failure: str) -> None:
    """It is refused before it is decoded, with nothing but that."""
    answered = check(await api.post(BASE + path, body), 400, "validation-failed")
    assert answered.json["error_messages"] == [failure]


async def test_400_parameters_are_counted_before_they_are_read(api: Served) -> None:
    """Thirty-two are looked into, known or not."""
    for count, failures in ((31, 31), (32, 1)):
        query = f"account_id={ADA}" + "&x=1" * count
        answered = check(await api.get(f"{BASE}?{query}"), 400, "validation-failed")
        assert len(answered.json["error_messages"]) == failures
    answered = check(await api.post(f"{BASE}/destroy?{query}", {"accountId": ADA}), 400, "validation-failed")
    assert answered.json["error_messages"] == ["query: must have at most 32 parameters"]


async def test_brackets_and_commas_of_texts_are_no_structure(api: Served) -> None:
    """A valid body may be full of what is counted, within its strings, escaped quotes and backslashes too."""
    await api.create()
    for text in ("[{,:}]" * 600, '",' * 1_900, "\\" * 1_900, '"[' * 1_200):
        assert (await api.add(*[text] * 20)).status == 200


@pytest.mark.parametrize(
    ("changed", "failure"),
    [
        ({"title": ""}, "title: must have 1 to 255 characters"),
        ({"title": "a" * 256}, "title: must have 1 to 255 characters"),
        ({"title": "\ufb2c" * 100}, "title: must have 1 to 255 characters"),
        ({"title": "a\0"}, "title: must not contain U+0000"),
        ({"title": "\u0390" * 1_021}, "title: must have 1 to 255 characters"),
        ({"title": "a" + "\u0301" * 31}, "title: must not have more than 30 combining characters in a row"),
        ({"remarks": "\u0315" * 40}, "remarks: must not have more than 30 combining characters in a row"),
        ({"title": "\ud800"}, "title: must not contain lone surrogates"),
        ({"accountId": "\ud800" + ADA[1:]}, "accountId: must not contain lone surrogates"),
        ({"remarks": "a" * 256}, "remarks: must have 0 to 255 characters"),
        ({"administratorIds": []}, "administratorIds: must have at least 1 element(s)"),
        ({"administratorIds": [ADA] * 1_001}, "administratorIds: must have at most 1000 elements"),
        ({"memberIds": None}, "memberIds: must be an array"),
        ({"memberIds": ADA}, "memberIds: must be an array"),
        (
            {"threadId": "0" * 10 + "1" * 16},
            "threadId: must not begin with ten zeros: such ids are derived from an Idempotency-Key",
        ),
        ({"threadId": "a"}, "threadId: must be a ULID: 26 Crockford characters, the first at most 7"),
    ],
    ids=str,
)
async def test_400_limits_of_a_create(api: Served, changed: dict[str, object], failure: str) -> None:
    """Limits count after NFC: U+FB2C becomes three code points there."""
    answered = check(await api.create(**changed), 400, "validation-failed")
    assert answered.json["error_messages"] == [failure]


async def test_400_leave_administrators_takes_one_list(api: Served) -> None:
    """Both names or neither are refused."""
    path = BASE + "/administrator-ids/leave"
    both = await api.post(path, {"accountId": ADA, "administratorIds": [ADA], "accountIds": [ADA]})
    assert both.json["error_messages"] == ["accountIds: must be left out when administratorIds is given"]
    neither = await api.post(path, {"accountId": ADA})
    assert check(neither, 400, "validation-failed").json["error_messages"] == ["administratorIds: is required"]


async def test_400_messages_of_a_command(api: Served) -> None:
    """At least one, at most a hundred."""
    for count, failure in ((0, "must have at least 1 element(s)"), (101, "must have at most 100 elements")):
        answered = check(await api.add(*["a"] * count), 400, "validation-failed")
        assert answered.json["error_messages"] == [f"messages: {failure}"]


async def test_403_a_reader_without_the_right(api: Served) -> None:
    """Members read and post; the rest is for administrators, and one's own messages are one's own."""
    await api.create()
    answered = await api.post(BASE + "/destroy", {"accountId": BOB})
    check(answered, 403, "not-administrator")
    message_id = (await api.add("a")).json["messageIds"][0]
    removal = await api.post(BASE + "/messages/remove", {"accountId": ADA, "messageIds": [message_id]})
    check(removal, 403, "not-sender")


async def test_404_unknown_and_unreadable_are_the_same(api: Served) -> None:
    """A 404 does not reveal that a thread exists."""
    await api.create()
    for path in ("", "/administrator-ids", "/member-ids", "/messages"):
        stranger = check(await api.get(f"{BASE}{path}?account_id={DAN}"), 404, "thread-not-found")
        unknown = check(await api.get(f"/v1/threads/{UNKNOWN}{path}?account_id={DAN}"), 404, "thread-not-found")
        assert stranger.body == unknown.body
    stranger = await api.post(BASE + "/destroy", {"accountId": DAN})
    unknown = await api.post(f"/v1/threads/{UNKNOWN}/destroy", {"accountId": DAN})
    assert check(stranger, 404, "thread-not-found").body == check(unknown, 404, "thread-not-found").body


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/threads/",
        "/v1/accounts",
        f"/v1/accounts/{ADA}",
        f"/v1/accounts/{ADA}/mentions/",
        "/v1/threads//messages",
        BASE + "/",
        BASE + "/messages/",
        BASE + "/messages/add/",
        BASE + "/event",
        "/v1/threads/create/",
        "/V1/threads/create",
        "/docs/",
        "//docs",
    ],
)
async def test_404_paths_are_exact(api: Served, path: str) -> None:
    """A path that is not in the table answers 404, whatever the method."""
    for method in ("GET", "POST", "OPTIONS"):
        check(await api.send(request_bytes(method, path)), 404, "route-not-found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/threads/create", "OPTIONS, POST"),
        ("HEAD", "/v1/threads/create", "OPTIONS, POST"),
        ("POST", BASE, "GET, HEAD, OPTIONS"),
        ("DELETE", BASE + "/messages", "GET, HEAD, OPTIONS"),
        ("PUT", BASE + "/messages/add", "OPTIONS, POST"),
        ("PATCH", "/openapi.json", "GET, HEAD, OPTIONS"),
        ("TRACE", "/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_405_says_what_is_allowed(api: Served, method: str, path: str, allow: str) -> None:
    """``Allow`` comes from the table."""
    answered = await api.send(request_bytes(method, path), head=method == "HEAD")
    assert (answered.status, answered.headers["allow"]) == (405, allow)
    if method != "HEAD":
        check(answered, 405, "method-not-allowed")


async def test_options_answers_the_methods(api: Served) -> None:
    """204 without a body or a length."""
    answered = await api.send(request_bytes("OPTIONS", BASE))
    assert (answered.status, answered.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert "content-length" not in answered.headers


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Content-Type", "text/plain"),),
        (("Content-Type", "application/json; charset=latin-1"),),
        (("Content-Type", "application/json; charset=utf-8; x=y"),),
        (("Content-Type", "application/problem+json"),),
        (("Content-Type", "application/json" + ";" * 8_000),),
        (JSON_TYPE, ("Content-Encoding", "gzip")),
        (JSON_TYPE, ("Content-Encoding", "identity")),
    ],
    ids=lambda headers: str(headers)[:60],
)
async def test_415_only_plain_json(api: Served, headers: tuple[tuple[str, str], ...]) -> None:
    """No other type, none at all, no encoding."""
    answered = await api.send(request_bytes("POST", BASE + "/destroy", headers=headers, body=b"{}"))
    check(answered, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "value", ["application/json;charset=UTF-8", "Application/JSON", 'application/json; charset="utf-8"']
)
async def test_json_by_any_spelling(api: Served, value: str) -> None:
    """Media types have no case, and UTF-8 may be named."""
    raw = request_bytes("POST", BASE + "/destroy", headers=(("Content-Type", value),), body=b"{}")
    check(await api.send(raw), 400, "validation-failed")


async def test_409_what_the_state_refuses(api: Served, threads: MemoryThreads) -> None:
    """The last administrator, limits, taken ids, missing replies."""
    threads.limits = Limits(messages=1, administrators=2, members=2)
    await api.create()
    check(await api.create(title="other"), 409, "already-exists")
    leave = {"accountId": ADA, "administratorIds": [ADA]}
    check(await api.post(BASE + "/administrator-ids/leave", leave), 409, "last-administrator")
    three = {"accountId": ADA, "accountIds": [BOB, CAI, DAN]}
    check(await api.post(BASE + "/administrator-ids/join", three), 409, "administrator-limit")
    check(await api.post(BASE + "/member-ids/join", three), 409, "member-limit")
    check(await api.add("a", "b"), 409, "message-limit")
    reply = {"accountId": ADA, "messages": [{"text": "a", "replyMessageId": UNKNOWN}]}
    check(await api.post(BASE + "/messages/add", reply), 409, "reply-not-live")
    for text, status in (("a", 200), ("a", 200), ("b", 409)):
        body = {"accountId": ADA, "messages": [{"text": text, "messageId": UNKNOWN}]}
        answered = await api.post(BASE + "/messages/add", body)
        assert answered.status == status
    check(answered, 409, "message-id-taken")
    check(await api.create(threadId=PARENT, parentThreadId=UNKNOWN), 409, "parent-not-readable")


async def test_410_after_destroy(api: Served) -> None:
    """Gone for those who could read it, not there for others."""
    await api.create()
    await api.post(BASE + "/destroy", {"accountId": ADA})
    check(await api.get(f"{BASE}/messages?account_id={BOB}"), 410, "thread-destroyed")
    check(await api.add("a"), 410, "thread-destroyed")
    check(await api.create(), 410, "thread-destroyed")
    check(await api.get(f"{BASE}/messages?account_id={DAN}"), 404, "thread-not-found")


@pytest.mark.parametrize("code", [code for code in UnavailableCode if code is not UnavailableCode.READ_MODEL_BEHIND])
async def test_503_not_now(api: Served, threads: MemoryThreads, code: UnavailableCode) -> None:
    """Every reason, with when to try again, in whole seconds."""
    threads.instead = lambda _: Unavailable(code, "not now", 1.2)
    answered = check(await api.add("a"), 503, code.value)
    assert answered.headers["retry-after"] == "2"
    assert answered.json["detail"] == "not now"
    assert "threadId" not in answered.json


async def test_503_an_unknown_create_tells_its_id(api: Served, threads: MemoryThreads) -> None:
    """So that the client can look for the thread, or create it again under the same id."""
    threads.instead = lambda _: Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "lost")
    answered = check(await api.create(threadId=None), 503, "outcome-unknown")
    assert answered.json["threadId"] == threads.last_command.command.thread_id


async def test_503_a_query_is_never_unknown(api: Served, threads: MemoryThreads) -> None:
    """It stores nothing, so nothing is in doubt."""
    threads.instead = lambda _: Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "lost")
    check(await api.get(f"{BASE}?account_id={ADA}"), 503, "shard-unavailable")


async def test_503_when_the_parent_cannot_be_asked(api: Served, threads: MemoryThreads) -> None:
    """Nothing was stored: the create itself was never sent."""
    threads.instead = lambda _: Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "lost")
    check(await api.create(parentThreadId=PARENT), 503, "shard-unavailable")
    assert len(threads.asked) == 1


async def test_504_the_read_model_is_behind(api: Served, threads: MemoryThreads) -> None:
    """As the owner says it."""
    threads.instead = lambda _: Unavailable(UnavailableCode.READ_MODEL_BEHIND, "behind")
    check(await api.get(f"{BASE}?account_id={ADA}&min_sequence_nr=9"), 504, "read-model-behind")


async def test_500_has_no_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is in the log with its cause, and looks like every other problem; the connection goes on."""

    class Broken(Elsewhere):
        async def ask(self, request: Request, budget_s: float) -> Answer:
            if isinstance(request, ReadThread):
                raise RuntimeError("inner secret")
            return Unavailable(UnavailableCode.LEAVING, "leaving")

    async with serving(Broken()) as api:
        answered = check(await api.get(f"{BASE}?account_id={ADA}"), 500, "internal-error")
        check(await api.add("a"), 503, "leaving")
    assert b"secret" not in answered.body
    record = next(record for record in caplog.records if record.exc_info)
    assert "inner secret" in str(record.exc_info)


async def test_an_answer_of_the_wrong_kind_is_a_fault(api: Served, threads: MemoryThreads) -> None:
    """An owner that answers a command with a page is broken; the client gets a 500, not a guess."""
    await api.create()
    page = await threads.ask(ReadThread(ThreadId(THREAD), AccountId(ADA)), 1.0)
    threads.instead = lambda _: page
    check(await api.add("a"), 500, "internal-error")
    check(await api.create(parentThreadId=PARENT), 500, "internal-error")


async def test_problems_are_json(api: Served) -> None:
    """They decode with any decoder."""
    assert json.loads((await api.get("/nothing")).body)["title"] == "No such path"
