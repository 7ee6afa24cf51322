"""Every command, as a client sees it when it holds."""

import asyncio

import pytest

from shard_worker.contract import Answer, CommandRequest, Request
from shard_worker.domain.commands import AddMessages, CreateThread, JoinMemberIds, LeaveAdministratorIds
from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, CAI, DAN, PARENT, THREAD, Served, serving

MESSAGE = "01CX5ZZKBKACTAV9WEVGEMMVRZ"


@pytest.fixture(params=[True, False], ids=["lane", "long way"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Commands are answered alike, whichever way they take."""
    return bool(request.param)


async def test_create_answers_the_id_under_both_names(api: Served) -> None:
    """The reference's client reads ``thread_id``, ours ``threadId``."""
    answered = await api.create()
    assert answered.status == 200
    assert answered.headers["content-type"] == "application/json"
    assert answered.json == {
        "error_messages": [],
        "threadId": THREAD,
        "thread_id": THREAD,
        "sequenceNr": 1,
        "position": "1.4",
    }


async def test_create_mints_an_id(api: Served) -> None:
    """Without ``threadId`` each create makes another thread."""
    first, second = [(await api.create(threadId=None)).json["threadId"] for _ in range(2)]
    assert first != second
    assert len(first) == 26


async def test_every_other_command(api: Served) -> None:
    """Each answers its own shape and the thread's new sequence number."""
    await api.create(administratorIds=[ADA, CAI])
    base = f"/v1/threads/{THREAD}"
    joined = await api.post(base + "/administrator-ids/join", {"accountId": ADA, "accountIds": [DAN]})
    left = await api.post(base + "/administrator-ids/leave", {"accountId": ADA, "administratorIds": [DAN]})
    left_too = await api.post(base + "/administrator-ids/leave", {"accountId": ADA, "accountIds": [CAI]})
    member = await api.post(base + "/member-ids/join", {"accountId": ADA, "accountIds": [CAI]})
    member_left = await api.post(base + "/member-ids/leave", {"accountId": CAI, "accountIds": [CAI]})
    for expected, answered in enumerate((joined, left, left_too, member, member_left), start=2):
        assert answered.status == 200
        assert answered.json == {
            "error_messages": [],
            "threadId": THREAD,
            "sequenceNr": expected,
            "position": f"{expected}.4",
        }
    added = await api.post(
        base + "/messages/add", {"accountId": BOB, "messages": [{"text": "a", "messageId": MESSAGE}]}
    )
    assert added.json == {"error_messages": [], "messageIds": [MESSAGE], "sequenceNr": 7, "position": "7.4"}
    removed = await api.post(base + "/messages/remove", {"accountId": BOB, "messageIds": [MESSAGE, THREAD]})
    assert removed.json == {"error_messages": [], "messageIds": [MESSAGE], "sequenceNr": 8, "position": "8.4"}
    destroyed = await api.post(base + "/destroy", {"accountId": ADA})
    assert destroyed.json == {"error_messages": [], "threadId": THREAD, "sequenceNr": 9, "position": "9.4"}


async def test_minted_message_ids_keep_the_order_given(api: Served, threads: MemoryThreads) -> None:
    """The n-th id of the answer is the n-th message."""
    await api.create()
    ids = (await api.add("one", "two", "three")).json["messageIds"]
    assert [threads.texts[message_id][0] for message_id in ids] == ["one", "two", "three"]


async def test_nothing_to_change_is_a_success(api: Served) -> None:
    """Joining twice, or with an empty list, stores nothing and answers the present sequence number."""
    await api.create()
    for ids in ([BOB], []):
        answered = await api.post(f"/v1/threads/{THREAD}/member-ids/join", {"accountId": ADA, "accountIds": ids})
        assert (answered.status, answered.json["sequenceNr"]) == (200, 1)


async def test_ids_are_canonical_and_distinct_inside(api: Served, threads: MemoryThreads) -> None:
    """Ids come in either case and more than once; inside, each is upper case and once, at its first place."""
    await api.create()
    ids = [CAI.lower(), BOB, CAI, DAN]
    path = f"/v1/threads/{THREAD.lower()}/member-ids/join"
    answered = await api.post(path, {"accountId": ADA.lower(), "accountIds": ids})
    assert answered.json["threadId"] == THREAD
    command = threads.last_command.command
    assert isinstance(command, JoinMemberIds)
    assert (command.account_id, command.member_ids) == (ADA, (CAI, BOB, DAN))


async def test_null_is_left_out(api: Served, threads: MemoryThreads) -> None:
    """``null`` for every optional field is the same as leaving it out."""
    answered = await api.create(threadId=None, remarks=None, parentThreadId=None, createAt=None)
    assert answered.status == 200
    base = f"/v1/threads/{answered.json['threadId']}"
    message = {"text": "a", "messageId": None, "replyMessageId": None, "toAccountIds": None}
    assert (await api.post(base + "/messages/add", {"accountId": ADA, "messages": [message]})).status == 200
    body = {"accountId": ADA, "administratorIds": None, "accountIds": [CAI]}
    assert (await api.post(base + "/administrator-ids/leave", body)).status == 200
    command = threads.last_command.command
    assert isinstance(command, LeaveAdministratorIds)
    assert command.administrator_ids == (CAI,)


async def test_texts_become_nfc_before_they_are_counted(api: Served, threads: MemoryThreads) -> None:
    """A decomposed title of 510 code points is 255 composed ones; nothing is trimmed."""
    answered = await api.create(title="e\u0301" * 255, remarks="")
    assert answered.status == 200
    command = threads.last_command.command
    assert isinstance(command, CreateThread)
    assert (command.title, command.remarks) == ("é" * 255, "")
    assert (await api.add(" \t ", "👍" * 4_000)).status == 200
    added = threads.last_command.command
    assert isinstance(added, AddMessages)
    assert [message.text for message in added.messages] == [" \t ", "👍" * 4_000]


async def test_create_at_is_kept(api: Served, threads: MemoryThreads) -> None:
    """``createAt`` reaches the command; without it the server's clock does."""
    await api.create(createAt=2**53 - 1)
    assert threads.last_command.command.create_at == 2**53 - 1
    await api.add("a")
    assert 1_600_000_000_000 < threads.last_command.command.create_at < 2**53 - 1


async def test_every_command_has_its_own_command_id(api: Served, threads: MemoryThreads) -> None:
    """16 random bytes distinguish two commands without a key inside the cluster."""
    await api.create()
    await api.add("a")
    ids = {request.command_id for request in threads.asked if isinstance(request, CommandRequest)}
    assert {len(command_id) for command_id in ids} == {16}
    assert len(ids) == 2


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "unreadable"])
async def test_a_parent_is_asked_for_first(api: Served, readable: bool) -> None:
    """A create below a thread that the creator may read succeeds, below another it is refused."""
    await api.create(threadId=PARENT)
    creator = ADA if readable else DAN
    answered = await api.create(accountId=creator, parentThreadId=PARENT)
    assert answered.status == (200 if readable else 409)
    if not readable:
        assert answered.json["code"] == "parent-not-readable"


async def test_a_parent_that_takes_all_the_time_leaves_none_for_the_create() -> None:
    """Then nothing is sent to the new thread's owner, so nothing is stored."""

    class Late(MemoryThreads):
        async def ask(self, request: Request, budget_s: float) -> Answer:
            await asyncio.sleep(budget_s)
            return await super().ask(request, budget_s)

    late = Late()
    async with serving(late, GatewayOptions(budget_s=0.01)) as api:
        answered = await api.create(parentThreadId=PARENT)
    assert (answered.status, answered.json["code"]) == (503, "shard-unavailable")
    assert len(late.asked) == 1


async def test_a_thread_is_not_its_own_parent(api: Served, threads: MemoryThreads) -> None:
    """No shard gets the request."""
    answered = await api.create(parentThreadId=THREAD)
    assert (answered.status, answered.json["code"]) == (409, "parent-not-readable")
    assert len(threads.asked) == 1
