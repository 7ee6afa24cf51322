"""Three workers, one cluster: whichever is asked gives the same answer (the talk's test with several JVMs)."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from ulid import ULID

from tests.support.local_cluster import local_cluster

ME = str(ULID())
FRIEND = str(ULID())


class Workers:
    """The three workers' own addresses, and a session to ask them."""

    def __init__(self, session: aiohttp.ClientSession, addresses: list[str], management: list[str]) -> None:
        self.session = session
        self.addresses = addresses
        self.management = management

    async def send(
        self, worker: int, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str], Any]:
        """A command with header fields of its own: status, the answer's fields and its JSON."""
        async with self.session.post(self.addresses[worker % 3] + path, json=body, headers=headers) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def post(self, worker: int, path: str, body: dict[str, Any], key: str | None = None) -> tuple[int, Any]:
        """A command through one worker: status and JSON."""
        status, _, answer = await self.send(worker, path, body, {"Idempotency-Key": key} if key is not None else {})
        return status, answer

    async def get_everywhere(self, path: str) -> tuple[int, bytes]:
        """A query through every worker; fails unless all answer alike, byte for byte."""
        answers = set()
        for address in self.addresses:
            async with self.session.get(address + path) as response:
                answers.add((response.status, await response.read()))
        assert len(answers) == 1, answers
        return answers.pop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workers]:
    """A cluster of three, each asked by its own port."""
    async with (
        local_cluster(tmp_path_factory.mktemp("alike") / "data", 3, shards=12) as cluster,
        aiohttp.ClientSession() as session,
    ):
        management = [each["managementAddress"] for each in (await cluster.status())["workers"]]
        yield Workers(session, (await cluster.urls())[1:], management)


async def test_every_route_through_every_worker_gives_the_same_answer(workers: Workers) -> None:
    """Twelve threads, each command sent through another worker than the one before; reads agree byte for byte."""
    for number in range(12):
        status, made = await workers.post(
            number,
            "/v1/threads/create",
            {"accountId": ME, "title": f"t{number}", "administratorIds": [ME], "memberIds": []},
        )
        assert status == 200, made
        thread = made["threadId"]
        steps: list[tuple[str, dict[str, Any]]] = [
            ("member-ids/join", {"accountIds": [FRIEND]}),
            ("administrator-ids/join", {"accountIds": [FRIEND]}),
            ("administrator-ids/leave", {"administratorIds": [FRIEND]}),
            ("messages/add", {"messages": [{"text": "one"}, {"text": "two"}]}),
        ]
        for step, (path, body) in enumerate(steps):
            status, answer = await workers.post(
                number + step + 1, f"/v1/threads/{thread}/{path}", {"accountId": ME, **body}
            )
            assert status == 200, (path, answer)
            assert answer["sequenceNr"] == step + 2
        removed = answer["messageIds"][0]
        status, answer = await workers.post(
            number + 1, f"/v1/threads/{thread}/messages/remove", {"accountId": ME, "messageIds": [removed]}
        )
        assert (status, answer["messageIds"]) == (200, [removed])
        status, answer = await workers.post(
            number + 2, f"/v1/threads/{thread}/member-ids/leave", {"accountId": FRIEND, "accountIds": [FRIEND]}
        )
        assert (status, answer["sequenceNr"]) == (200, 7)
        for query in ("", "/administrator-ids", "/member-ids", "/messages"):
            status, raw = await workers.get_everywhere(f"/v1/threads/{thread}{query}?account_id={ME}&min_sequence_nr=7")
            assert status == 200, raw
        assert b'"two"' in raw
        assert b'"one"' not in raw
        assert (await workers.get_everywhere(f"/v1/threads/{thread}?account_id={FRIEND}"))[0] == 404
        status, answer = await workers.post(number, f"/v1/threads/{thread}/destroy", {"accountId": ME})
        assert status == 200, answer
        assert (await workers.get_everywhere(f"/v1/threads/{thread}/messages?account_id={ME}"))[0] == 410


async def test_a_parent_on_another_worker_is_asked_there(workers: Workers) -> None:
    """A thread's parent is looked at by its owner, wherever that is; an unreadable one is refused."""
    body = {"accountId": ME, "title": "parent", "administratorIds": [ME], "memberIds": []}
    _, parent = await workers.post(0, "/v1/threads/create", body)
    for number in range(6):
        child = {**body, "title": "child", "parentThreadId": parent["threadId"]}
        assert (await workers.post(number, "/v1/threads/create", child))[0] == 200
        stranger = {**child, "accountId": FRIEND}
        status, refused = await workers.post(number, "/v1/threads/create", stranger)
        assert (status, refused["code"]) == (409, "parent-not-readable")


async def test_a_retry_is_marked_and_reaches_one_thread_through_every_worker(workers: Workers) -> None:
    """The id that a key leads to and the mark of a retry are the same wherever a client lands."""
    body = {"accountId": ME, "title": "keyed", "administratorIds": [ME], "memberIds": []}
    answers = [await workers.send(number, "/v1/threads/create", body, {"Idempotency-Key": "k"}) for number in range(3)]
    assert {status for status, _, _ in answers} == {200}
    assert [headers.get("Idempotent-Replayed") for _, headers, _ in answers] == [None, "true", "true"]
    (thread,) = {answer["threadId"] for _, _, answer in answers}
    assert thread.startswith("0" * 10)


async def test_local_workers_answer_to_localhost_alone(workers: Workers) -> None:
    """A page whose foreign name was made to resolve to loopback gets 421 from every port."""
    for number in range(3):
        for host, wanted in (("rebound.example", 421), ("localhost:1", 404), ("[::1]", 404)):
            status, headers, _ = await workers.send(number, "/v1/threads/create/", {}, {"Host": host})
            assert status == wanted
            assert headers["Cache-Control"] == "no-store"
    for address in workers.management:
        async with workers.session.get(f"{address}/cluster", headers={"Host": "rebound.example"}) as response:
            assert response.status == 421
        async with workers.session.get(f"{address}/metrics") as response:
            assert "threadcluster_loop_lag_seconds_count" in await response.text()
