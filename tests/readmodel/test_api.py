"""The read model through HTTP, on two real workers: lists, mentions, unread counts and read markers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import asyncpg
import pytest

from shard_worker.domain.ids import AccountId, ThreadId, ulid_uuid
from tests.support.journal_writer import ANN, BOB, message_id
from tests.support.polling import eventually
from tests.support.worker_processes import Workers, workers_on

CID = AccountId("01JCCCCCCCCCCCCCCCCCCCCCCC")


class Chat:
    """A client of both workers in turns."""

    def __init__(self, workers: Workers, session: aiohttp.ClientSession) -> None:
        self.workers = workers
        self._session = session
        self._turn = 0

    def _url(self, path: str) -> str:
        self._turn += 1
        return self.workers.urls[self._turn % len(self.workers.urls)] + path

    async def post(self, path: str, status: int = 200, **body: object) -> Any:  # JSON
        """The answer to a command."""
        async with self._session.post(self._url(path), json=body) as response:
            answer = await response.json(content_type=None)
            assert response.status == status, answer
            return answer

    async def get(self, path: str, status: int = 200, **query: object) -> Any:  # JSON
        """The answer to a query."""
        params = {name: str(value) for name, value in query.items()}
        async with self._session.get(self._url(path), params=params) as response:
            answer = await response.json(content_type=None)
            assert response.status == status, answer
            return answer

    async def create(self, *members: AccountId, title: str = "t") -> str:
        """Ann opens a thread."""
        done = await self.post(
            "/v1/threads/create", accountId=ANN, title=title, administratorIds=[ANN], memberIds=list(members)
        )
        return str(done["threadId"])

    async def add(self, thread: str, *texts: str, by: AccountId = ANN, to: tuple[AccountId, ...] = ()) -> list[str]:
        """Post messages."""
        messages = [{"text": text, "toAccountIds": list(to)} for text in texts]
        done = await self.post(f"/v1/threads/{thread}/messages/add", accountId=by, messages=messages)
        found: list[str] = done["messageIds"]
        return found

    async def threads(self, account: AccountId) -> list[tuple[str, int]]:
        """The account's list: each thread with its unread count."""
        found = await self.get("/v1/threads", account_id=account)
        assert found["poisoned"] == []
        return [(each["id"], each["unreadCount"]) for each in found["results"]]

    async def listed(self, account: AccountId, *wanted: tuple[str, int]) -> None:
        """Return once the account's list is this: the read model follows the commands."""

        async def as_wanted() -> bool:
            return await self.threads(account) == list(wanted)

        await eventually(as_wanted, what=f"the list of {account} is {wanted}")

    async def listed_unread(self, account: AccountId, thread: str, count: int) -> None:
        """Return once the account's list shows this number of unread messages of a thread."""

        async def as_wanted() -> bool:
            return dict(await self.threads(account)).get(thread) == count

        await eventually(as_wanted, what=f"{count} messages of {thread} are unread for {account}")


@pytest.fixture
async def chat(dsn: str, tmp_path: Path) -> AsyncIterator[Chat]:
    """Two workers, of which the second answers every query from the read model, and a client."""
    async with workers_on(dsn, tmp_path) as workers, aiohttp.ClientSession() as session:
        for name, source in (("w0", "owner"), ("w1", "read-model")):
            workers.add(name).settings["SHARD_WORKER_QUERY_SOURCE"] = source
        await workers.start("w0", "w1")
        await workers.spread("w0", "w1")
        yield Chat(workers, session)


async def test_the_read_side_of_a_chat(chat: Chat, dsn: str) -> None:
    """One chat after another: each worker's process takes a second to start."""
    await _the_list_of_an_account(chat)
    await _pages_of_threads(chat)
    await _mentions(chat)
    await _markers(chat)
    await _queries_by_both_sources(chat)
    await _the_state_of_the_read_model(chat, dsn)


async def _the_list_of_an_account(chat: Chat) -> None:
    """Newest activity first; without what was destroyed, left or is another's; messages of others are unread."""
    first, second = await chat.create(BOB), await chat.create(BOB)
    await chat.listed(BOB, (second, 0), (first, 0))
    await chat.add(first, "a", "b")
    await chat.listed(BOB, (first, 2), (second, 0))
    assert await chat.threads(ANN) == [(first, 0), (second, 0)]
    # Joining is no activity, and shows the thread to who joined.
    await chat.post(f"/v1/threads/{second}/member-ids/join", accountId=ANN, accountIds=[CID])
    await chat.listed(CID, (second, 0))
    await chat.listed(BOB, (first, 2), (second, 0))
    await chat.post(f"/v1/threads/{first}/member-ids/leave", accountId=BOB, accountIds=[BOB])
    await chat.listed(BOB, (second, 0))
    await chat.post(f"/v1/threads/{second}/destroy", accountId=ANN)
    await chat.listed(BOB)
    await chat.listed(CID)


async def _pages_of_threads(chat: Chat) -> None:
    """A walk by cursors shows each thread once, and the same order as one page; a foreign cursor is refused."""
    made = [await chat.create(CID, title=f"{number}") for number in range(7)]
    await chat.listed(CID, *[(thread, 0) for thread in reversed(made)])
    walked: list[str] = []
    page = await chat.get("/v1/threads", account_id=CID, limit=3)
    while True:
        walked += [each["id"] for each in page["results"]]
        if page["nextCursor"] is None:
            break
        cursor = page["nextCursor"]
        page = await chat.get("/v1/threads", account_id=CID, limit=3, cursor=cursor)
    assert walked == list(reversed(made))
    skipped = await chat.get("/v1/threads", account_id=CID, offset=5)
    assert [each["id"] for each in skipped["results"]] == list(reversed(made))[5:]
    refused = await chat.get("/v1/threads", 400, account_id=BOB, cursor=cursor)
    assert refused["code"] == "validation-failed"
    refused = await chat.get("/v1/threads", 400, account_id=CID, min_sequence_nr=1)
    assert refused["error_messages"] == ["min_sequence_nr: is not a parameter of this request"]


async def _mentions(chat: Chat) -> None:
    """Newest first, within one command the later one; without removed messages, and only where the account reads."""
    thread, closed = await chat.create(BOB), await chat.create()
    await chat.add(closed, "not for you", to=(BOB,))
    older = await chat.add(thread, "one", to=(BOB,))
    newer = await chat.add(thread, "two", "three", to=(BOB, CID))

    async def mentioned() -> list[str]:
        found = await chat.get(f"/v1/accounts/{BOB.lower()}/mentions")
        return [each["id"] for each in found["result"]]

    async def as_wanted() -> bool:
        return await mentioned() == [newer[1], newer[0], older[0]]

    await eventually(as_wanted, what="the mentions are listed")
    page = await chat.get(f"/v1/accounts/{BOB}/mentions", limit=1)
    assert [each["body"] for each in page["result"]] == ["three"]
    assert page["result"][0]["toAccountIds"] == [BOB, CID]
    page = await chat.get(f"/v1/accounts/{BOB}/mentions", limit=5, cursor=page["nextCursor"])
    assert [each["body"] for each in page["result"]] == ["two", "one"]
    await chat.post(f"/v1/threads/{thread}/messages/remove", accountId=ANN, messageIds=[newer[0]])

    async def without_removed() -> bool:
        return await mentioned() == [newer[1], older[0]]

    await eventually(without_removed, what="the removed message is no mention")
    refused = await chat.get("/v1/accounts/none/mentions", 400)
    assert refused["error_messages"] == ["accountId: must be a ULID: 26 Crockford characters, the first at most 7"]
    await chat.get(f"/v1/accounts/{BOB}", 404)


async def _markers(chat: Chat) -> None:
    """Forward only; on a removed message too; never on another thread's; the unread count follows."""
    thread = await chat.create(BOB)
    path = f"/v1/threads/{thread}/read-markers/set"
    first, second, third = await chat.add(thread, "1", "2", "3")
    await chat.listed_unread(BOB, thread, 3)
    assert await chat.post(path, accountId=BOB, messageId=second.lower()) == {
        "error_messages": [],
        "threadId": thread,
        "messageId": second,
    }
    await chat.listed_unread(BOB, thread, 1)
    behind = await chat.post(path, accountId=BOB, messageId=first)
    assert behind["messageId"] == second, "a marker never moves back"
    await chat.post(f"/v1/threads/{thread}/messages/remove", accountId=ANN, messageIds=[third])
    assert (await chat.post(path, accountId=BOB, messageId=third))["messageId"] == third
    await chat.listed_unread(BOB, thread, 0)
    refused = await chat.post(path, 409, accountId=BOB, messageId=message_id())
    assert refused["code"] == "message-not-found"
    assert (await chat.post(path, 404, accountId=CID, messageId=first))["code"] == "thread-not-found"
    assert (await chat.post(path, 400, accountId=BOB))["error_messages"] == ["messageId: is required"]
    many = await asyncio.gather(
        *[chat.post(path, accountId=BOB, messageId=each) for each in (first, second, third) for _ in range(20)]
    )
    assert {each["messageId"] for each in many} == {third}


async def _queries_by_both_sources(chat: Chat) -> None:
    """Each query on a thread is asked of a worker of each setting: the answers are the same, cursors hold on both."""
    thread = await chat.create(BOB)
    path = f"/v1/threads/{thread}"
    ids = await chat.add(thread, *"0123456", by=BOB)
    done = await chat.post(f"{path}/messages/remove", accountId=BOB, messageIds=[ids[3]])
    asked = {"account_id": ANN, "min_sequence_nr": done["sequenceNr"]}

    async def same(
        path: str, status: int = 200, anchor: Mapping[str, object] = MappingProxyType({}), **query: object
    ) -> Any:  # JSON
        first, second = [await chat.get(path, status, **{**asked, **anchor, **query}) for _ in range(2)]
        assert first == second
        return first

    await same(path)
    await same(f"{path}/member-ids")
    await same(f"{path}/administrator-ids", limit=1)
    for side, expected in (("before", ["12", "0"]), ("after", ["45", "6"]), ("around", ["45", "6"])):
        page = await same(f"{path}/messages", 200, {side: ids[3]}, limit=2)
        walk = ["".join(each["body"] for each in page["result"])]
        page = await same(f"{path}/messages", limit=2, cursor=page["nextCursor"])
        assert [*walk, "".join(each["body"] for each in page["result"])] == expected
        assert page["nextCursor"] is None
    for side in ("before", "after", "around"):
        refused = await same(f"{path}/messages", 400, {side: thread})
        assert refused["error_messages"] == [f"{side}: is no message of this thread, and never was"]


async def _the_state_of_the_read_model(chat: Chat, dsn: str) -> None:
    """Every worker names a thread that has stopped, whichever owns its shard, and planners see a rebuild."""
    assert (await chat.workers.ownership(of="w1"))["rebuild"] is None
    thread = await chat.create()

    async def is_listed() -> bool:
        return thread in dict(await chat.threads(ANN))

    await eventually(is_listed, what="the thread is projected")
    database = await asyncpg.connect(dsn)
    await database.execute(
        "INSERT INTO dead_letter SELECT 1, shard_id, thread_id, 2, 6, 9, 'unknown' FROM readmodel_1.thread WHERE thread_id = $1",
        ulid_uuid(ThreadId(thread)),
    )
    await database.execute("INSERT INTO readmodel_generation (generation, version) VALUES (9, 99)")
    await database.execute("INSERT INTO projection_offset (generation, shard_id) SELECT 9, id FROM shard")
    for name in ("w0", "w1"):

        async def named(name: str = name) -> bool:
            shown = (await chat.workers.cluster(of=name))["readModel"]
            return [(each["threadId"], each["sequenceNr"], each["reason"]) for each in shown["deadThreads"]] == [
                (thread, 2, "unknown")
            ]

        await eventually(named, what=f"{name} names the thread")
        rebuild = (await chat.workers.ownership(of=name))["rebuild"]
        assert (rebuild["generation"], rebuild["shards"]) == (9, chat.workers.shards)
        assert 0 < rebuild["shardsDone"] + 1 <= chat.workers.shards
    await database.close()
