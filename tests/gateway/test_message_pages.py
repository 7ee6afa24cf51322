"""Pages of messages before, after and around a message, by both sources of queries."""

from collections.abc import AsyncIterator

import pytest

from shard_worker.contract import GetMessages, GetMessageWindow, Unavailable, UnavailableCode
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.readmodel.queries import MessageState
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, DAN, THREAD, Served, serving
from tests.support.problem_checks import check

BASE = f"/v1/threads/{THREAD}"
MESSAGES = f"{BASE}/messages?account_id={BOB}"
NEVER = "01BX5ZZKBKACTAV9WEVGEMMVR1"


@pytest.fixture(params=["owner", "read-model"])
async def api(request: pytest.FixtureRequest, threads: MemoryThreads) -> AsyncIterator[Served]:
    """A client of a gateway that answers queries from one source."""
    options = GatewayOptions(read_model_answers=request.param == "read-model")
    async with serving(threads, options) as served:
        yield served


async def posted(api: Served) -> list[str]:
    """The usual thread with the messages 0 to 9, of three commands; their ids."""
    await api.create()
    ids: list[str] = []
    for texts in ("0123", "45", "6789"):
        ids += (await api.add(*texts)).json["messageIds"]
    return ids


async def page(api: Served, query: str) -> tuple[str, str | None]:
    """The texts of a page in one string, and its cursor."""
    answered = await api.get(f"{MESSAGES}&{query}")
    assert answered.status == 200, answered.json
    assert answered.json["sequenceNr"] >= 4
    return "".join(message["body"] for message in answered.json["result"]), answered.json["nextCursor"]


async def test_pages_are_next_to_their_anchor_and_oldest_first(api: Served) -> None:
    """Without the anchor before and after, with it around; what one side lacks goes to the other."""
    ids = await posted(api)
    for query, expected in (
        (f"before={ids[5]}&limit=3", "234"),
        (f"before={ids[0]}", ""),
        (f"after={ids[5].lower()}&limit=3", "678"),
        (f"after={ids[9]}", ""),
        (f"around={ids[5]}&limit=1", "5"),
        (f"around={ids[5]}&limit=2", "56"),
        (f"around={ids[5]}&limit=5", "34567"),
        (f"around={ids[5]}&limit=6", "345678"),
        (f"around={ids[1]}&limit=7", "0123456"),
        (f"around={ids[9]}&limit=4", "6789"),
        (f"around={ids[4]}", "0123456789"),
    ):
        assert (await page(api, query))[0] == expected, query


async def test_cursors_go_on_backwards_before_and_forwards_otherwise(api: Served) -> None:
    """Each walk ends with null, and holds every message of its direction once; the limit may change."""
    ids = await posted(api)
    for query, walk in (
        (f"before={ids[7]}&limit=3", ["456", "123", "0"]),
        (f"after={ids[2]}&limit=3", ["345", "678", "9"]),
        (f"around={ids[5]}&limit=3", ["456", "789"]),
        (f"before={ids[3]}&limit=3", ["012"]),
    ):
        texts, cursor = await page(api, query)
        seen = [texts]
        while cursor is not None:
            texts, cursor = await page(api, f"limit=3&cursor={cursor}")
            seen.append(texts)
        assert seen == walk, query
    _, cursor = await page(api, f"before={ids[7]}&limit=1")
    assert await page(api, f"limit=100&cursor={cursor}") == ("012345", None)


async def test_a_cursor_carries_the_number_of_its_first_page(api: Served, threads: MemoryThreads) -> None:
    """In both directions; a source that is behind it must not answer."""
    ids = await posted(api)
    for query in (f"before={ids[7]}&limit=1", f"around={ids[5]}&limit=1"):
        _, cursor = await page(api, query)
        await api.add("more")
        await page(api, f"limit=1&cursor={cursor}")
        asked = threads.asked[-1]
        assert isinstance(asked, GetMessageWindow | GetMessages)
        assert asked.min_sequence_nr == threads.threads[asked.thread_id].sequence_nr - 1


async def test_a_removed_anchor_keeps_its_place_and_is_not_listed(api: Served) -> None:
    """The read model knows where it was."""
    ids = await posted(api)
    await api.post(f"{BASE}/messages/remove", {"accountId": BOB, "messageIds": [ids[5], ids[6]]})
    api.read_model.removed[ids[5]] = (3, 1)
    for query, expected in (
        (f"before={ids[5]}&limit=2", "34"),
        (f"after={ids[5]}&limit=2", "78"),
        (f"around={ids[5]}&limit=1", "7"),
        (f"around={ids[5]}&limit=4", "4789"),
    ):
        assert (await page(api, query))[0] == expected, query


async def test_an_anchor_that_never_was_a_message_is_refused(api: Served) -> None:
    """By the parameter's name, once the read model knows as much as the owner; never to those who may not read."""
    await posted(api)
    for side in ("before", "after", "around"):
        refused = check(await api.get(f"{MESSAGES}&{side}={NEVER}"), 400, "validation-failed")
        assert refused.json["error_messages"] == [f"{side}: is no message of this thread, and never was"]
    check(await api.get(f"{BASE}/messages?account_id={DAN}&around={NEVER}"), 404, "thread-not-found")
    await api.post(f"{BASE}/destroy", {"accountId": ADA})
    check(await api.get(f"{MESSAGES}&around={NEVER}"), 410, "thread-destroyed")


async def test_an_anchor_that_the_read_model_may_not_know_yet_is_no_bad_request(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """504 while it is behind the owner, 503 while it cannot be read."""
    await posted(api)
    monkeypatch.setattr("shard_worker.gateway.public.removed_messages._BEHIND_S", 0.1)

    async def behind(*_: object) -> MessageState:
        return MessageState(None, 3)

    monkeypatch.setattr(api.read_model, "message", behind)
    check(await api.get(f"{MESSAGES}&around={NEVER}"), 504, "read-model-behind")

    async def away(*_: object) -> MessageState:
        raise ConnectionError("Postgres is away")

    monkeypatch.setattr(api.read_model, "message", away)
    check(await api.get(f"{MESSAGES}&around={NEVER}"), 503, "shard-unavailable")


async def test_an_owner_that_is_not_to_be_had_is_replaced_by_the_read_model(threads: MemoryThreads) -> None:
    """For a page around a message too."""
    async with serving(threads) as api:
        ids = await posted(api)
        gone = [False, True]

        def away_once(request: object) -> Unavailable | None:
            assert isinstance(request, GetMessageWindow)
            return Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "its shard moves") if gone.pop() else None

        threads.instead = away_once
        assert (await page(api, f"around={ids[5]}&limit=1"))[0] == "5"


@pytest.mark.parametrize(
    ("query", "failures"),
    [
        (f"before={NEVER}&after={NEVER}", ["after: must be left out when before is given"]),
        (f"before={NEVER}&around={NEVER}", ["around: must be left out when before is given"]),
        (f"offset=0&after={NEVER}", ["after: must be left out when offset is given"]),
        (f"cursor=a&around={NEVER}", ["cursor: must be left out when around is given"]),
        (
            f"offset=0&cursor=a&before={NEVER}&after={NEVER}",
            [f"{name}: must be left out when offset is given" for name in ("before", "after", "cursor")],
        ),
        ("before=x", ["before: must be a ULID: 26 Crockford characters, the first at most 7"]),
        ("around=", ["around: must be a ULID: 26 Crockford characters, the first at most 7"]),
        (f"after={NEVER}&after={NEVER}", ["after: was given twice"]),
        (f"after={NEVER}&limit=0", ["limit: must be an integer from 1 to 1000"]),
    ],
)
async def test_parameters_that_begin_a_page_exclude_each_other(api: Served, query: str, failures: list[str]) -> None:
    """Each failure names its parameter."""
    answered = check(await api.get(f"{MESSAGES}&{query}"), 400, "validation-failed")
    assert answered.json["error_messages"] == failures


@pytest.mark.parametrize("path", ["", "/member-ids", "/administrator-ids"])
@pytest.mark.parametrize("side", ["before", "after", "around"])
async def test_only_messages_have_anchors(api: Served, path: str, side: str) -> None:
    """Everywhere else the parameter is unknown."""
    await api.create()
    answered = check(await api.get(f"{BASE}{path}?account_id={BOB}&{side}={NEVER}"), 400, "validation-failed")
    assert answered.json["error_messages"] == [f"{side}: is not a parameter of this request"]


@pytest.mark.parametrize(
    "path", ["/v1/threads?account_id=" + ADA, f"/v1/accounts/{ADA}/mentions?"], ids=["threads", "mentions"]
)
@pytest.mark.parametrize(
    ("query", "failures"),
    [
        ("limit=0", ["limit: must be an integer from 1 to 1000"]),
        ("limit=1001", ["limit: must be an integer from 1 to 1000"]),
        ("offset=-1", [f"offset: must be an integer from 0 to {2**63 - 1}"]),
        (f"offset={2**63}", [f"offset: must be an integer from 0 to {2**63 - 1}"]),
        ("offset=0&cursor=a", ["cursor: must be left out when offset is given"]),
        ("cursor=a", ["cursor: is none of this query and account"]),
        ("limit=1&limit=1", ["limit: was given twice"]),
        (f"around={NEVER}", ["around: is not a parameter of this request"]),
        ("min_sequence_nr=1", ["min_sequence_nr: is not a parameter of this request"]),
    ],
)
async def test_lists_refuse_parameters_and_never_clamp_them(
    api: Served, path: str, query: str, failures: list[str]
) -> None:
    """As the queries on one thread do; and an offset beyond the end is an empty page."""
    answered = check(await api.get(f"{path}&{query}"), 400, "validation-failed")
    assert answered.json["error_messages"] == failures


async def test_a_list_of_mentions_takes_no_account_as_a_parameter(api: Served) -> None:
    """Its path names the account; an offset beyond the end is an empty page."""
    refused = check(await api.get(f"/v1/accounts/{ADA}/mentions?account_id={ADA}"), 400, "validation-failed")
    assert refused.json["error_messages"] == ["account_id: is not a parameter of this request"]
    await api.create()
    for path, name in ((f"/v1/threads?account_id={ADA}&", "results"), (f"/v1/accounts/{ADA}/mentions?", "result")):
        beyond = (await api.get(f"{path}offset={2**63 - 1}")).json
        assert (beyond[name], beyond["nextCursor"]) == ([], None)
