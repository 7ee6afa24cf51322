"""Every query, its pages and its parameters, by both sources of queries."""

from collections.abc import AsyncIterator

import pytest

from shard_worker.contract import ReadThread
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import NOW_MS, MemoryThreads
from tests.gateway.serving import ADA, BOB, CAI, DAN, THREAD, Served, serving

BASE = f"/v1/threads/{THREAD}"
PAGES = ("/administrator-ids", "/member-ids", "/messages")


@pytest.fixture(params=["owner", "read-model"])
async def api(request: pytest.FixtureRequest, threads: MemoryThreads) -> AsyncIterator[Served]:
    """A client of a gateway that answers queries from one source."""
    async with serving(threads, GatewayOptions(read_model_answers=request.param == "read-model")) as served:
        yield served


async def test_a_thread_shows_its_fields(api: Served) -> None:
    """Everything the contract lists, absent ones as null."""
    await api.create()
    answered = await api.get(f"{BASE}?account_id={BOB}")
    assert answered.status == 200
    assert answered.json == {
        "error_messages": [],
        "result": {
            "id": THREAD,
            "creatorId": ADA,
            "parentThreadId": None,
            "title": "t",
            "remarks": None,
            "createdAt": NOW_MS,
            "updatedAt": NOW_MS,
            "sequenceNr": 1,
            "position": "1.4",
        },
    }


async def test_account_ids_are_listed_for_every_reader(api: Served) -> None:
    """All administrators and members, for each of them as the caller."""
    await api.create(administratorIds=[ADA, CAI])
    expected: dict[str, object] = {
        "error_messages": [],
        "sequenceNr": 1,
        "position": "1.4",
        "nextCursor": None,
    }
    assert (await api.get(f"{BASE}/administrator-ids?account_id={BOB}")).json == expected | {"results": [ADA, CAI]}
    assert (await api.get(f"{BASE}/member-ids?account_id={ADA}")).json == expected | {"results": [BOB]}


async def test_messages_show_their_fields_under_both_names(api: Served) -> None:
    """``result`` is the reference's name, ``results`` ours; the list is the same."""
    await api.create()
    first = (await api.add("one")).json["messageIds"][0]
    message = {"text": "two", "replyMessageId": first, "toAccountIds": [DAN, CAI, DAN]}
    second = (await api.post(BASE + "/messages/add", {"accountId": ADA, "messages": [message]})).json["messageIds"][0]
    answered = (await api.get(f"{BASE}/messages?account_id={BOB}")).json
    assert "results" not in answered
    assert answered["result"][1] == {
        "id": second,
        "threadId": THREAD,
        "senderId": ADA,
        "type": "text",
        "body": "two",
        "replyMessageId": first,
        "toAccountIds": [DAN, CAI],
        "createdAt": NOW_MS,
        "updatedAt": NOW_MS,
        "sequenceNr": 3,
    }


@pytest.mark.parametrize("page", PAGES)
async def test_cursors_walk_through_everything_once(api: Served, page: str) -> None:
    """Pages joined by their cursors are the whole list; the last one's cursor is null."""
    accounts = sorted([ADA, BOB, CAI, DAN])
    await api.create(administratorIds=accounts, memberIds=accounts)
    await api.add(*"abc", account=ADA)
    await api.add("d", account=ADA)
    name = "result" if page == "/messages" else "results"
    whole = (await api.get(f"{BASE}{page}?account_id={ADA}")).json[name]
    seen: list[object] = []
    target = f"{BASE}{page}?account_id={ADA}&limit=3"
    for _ in range(2):
        answered = (await api.get(target)).json
        seen += answered[name]
        target = f"{BASE}{page}?account_id={ADA}&limit=3&cursor={answered['nextCursor']}"
    assert seen == whole
    assert len(whole) == 4
    assert answered["nextCursor"] is None


async def test_offset_passes_over(api: Served) -> None:
    """As in the reference; beyond the end is an empty page."""
    await api.create()
    await api.add("a", "b", "c")
    answered = (await api.get(f"{BASE}/messages?account_id={ADA}&offset=1&limit=1")).json
    assert [message["body"] for message in answered["result"]] == ["b"]
    beyond = await api.get(f"{BASE}/messages?account_id={ADA}&offset={2**63 - 1}")
    assert (beyond.status, beyond.json["result"], beyond.json["nextCursor"]) == (200, [], None)


async def test_a_cursor_holds_only_where_it_was_given(api: Served) -> None:
    """Another query, account or thread, or one changed character: 400."""
    await api.create(administratorIds=[ADA, CAI], memberIds=[BOB, DAN])
    cursor = (await api.get(f"{BASE}/member-ids?account_id={ADA}&limit=1")).json["nextCursor"]
    assert (await api.get(f"{BASE}/member-ids?account_id={ADA.lower()}&cursor={cursor}")).status == 200
    other = "01BX5ZZKBKACTAV9WEVGEMMVR1"
    changed = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for target in (
        f"{BASE}/administrator-ids?account_id={ADA}&cursor={cursor}",
        f"{BASE}/member-ids?account_id={BOB}&cursor={cursor}",
        f"/v1/threads/{other}/member-ids?account_id={ADA}&cursor={cursor}",
        f"{BASE}/member-ids?account_id={ADA}&cursor={changed}",
        f"{BASE}/member-ids?account_id={ADA}&cursor={cursor}!",
        f"{BASE}/member-ids?account_id={ADA}&cursor=",
        f"{BASE}/member-ids?account_id={ADA}&cursor=%C3%A9",
    ):
        answered = await api.get(target)
        assert (answered.status, answered.json["error_messages"]) == (
            400,
            ["cursor: is none of this query, thread and account"],
        )


@pytest.mark.parametrize(
    ("query", "failures"),
    [
        ("", ["account_id: is required"]),
        ("account_id=x", ["account_id: must be a ULID: 26 Crockford characters, the first at most 7"]),
        (f"account_id={ADA}&account_id={ADA}", ["account_id: was given twice"]),
        (f"account_id={ADA}&color=red", ["color: is not a parameter of this request"]),
        (f"account_id={ADA}&limit=0", ["limit: must be an integer from 1 to 1000"]),
        (f"account_id={ADA}&limit=1001", ["limit: must be an integer from 1 to 1000"]),
        (f"account_id={ADA}&limit=", ["limit: must be an integer from 1 to 1000"]),
        (f"account_id={ADA}&limit=%D9%A1", ["limit: must be an integer from 1 to 1000"]),
        (f"account_id={ADA}&offset=-1", [f"offset: must be an integer from 0 to {2**63 - 1}"]),
        (f"account_id={ADA}&offset={2**63}", [f"offset: must be an integer from 0 to {2**63 - 1}"]),
        (f"account_id={ADA}&min_sequence_nr=1e3", [f"min_sequence_nr: must be an integer from 0 to {2**63 - 1}"]),
        (f"account_id={ADA}&offset=0&cursor=a", ["cursor: must be left out when offset is given"]),
        (f"account_id={ADA}&%FF=1", ["\ufffd: is not a parameter of this request"]),
        (f"account_id={ADA}&limit=%FF", ["limit: must be an integer from 1 to 1000"]),
    ],
)
async def test_parameters_are_refused_never_clamped(api: Served, query: str, failures: list[str]) -> None:
    """Each failure names its parameter."""
    answered = await api.get(f"{BASE}/messages?{query}")
    assert (answered.status, answered.json["error_messages"]) == (400, failures)


async def test_all_failures_of_a_query_are_listed(api: Served) -> None:
    """The path's id, unknown parameters and values: everything at once."""
    answered = await api.get("/v1/threads/IL/messages?limit=0&x=1")
    assert answered.status == 400
    assert [message.partition(":")[0] for message in answered.json["error_messages"]] == [
        "threadId",
        "x",
        "account_id",
        "limit",
    ]


async def test_paging_parameters_are_unknown_to_a_single_thread(api: Served) -> None:
    """``limit`` belongs to pages."""
    assert (await api.get(f"{BASE}?account_id={ADA}&limit=1")).status == 400


async def test_min_sequence_nr_reaches_the_owner(api: Served, threads: MemoryThreads) -> None:
    """The owner waits for it, or refuses."""
    await api.create()
    await api.get(f"{BASE}?account_id={ADA}&min_sequence_nr={2**63 - 1}")
    assert threads.asked[-1] == ReadThread(ThreadId(THREAD), AccountId(ADA), 2**63 - 1)


async def test_head_is_get_without_a_body(api: Served) -> None:
    """Its length is that of the body it leaves out."""
    await api.create()
    got = await api.get(f"{BASE}?account_id={ADA}")
    raw = f"HEAD {BASE}?account_id={ADA} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    head = await api.send(raw, head=True)
    assert (head.status, head.headers["content-length"]) == (200, str(len(got.body)))
