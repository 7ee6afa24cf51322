"""The threads that the benchmark posts to, made through the API of the program under test, and the requests to them."""

import asyncio
import random

import msgspec

from tests.support.load.chat import random_ulid
from tests.support.load.client import Client, Outcome
from tests.support.load.figures import Figures
from tests.support.load.target import parse_target

Requests = list[tuple[str, str]]
"""Path and body of each request."""

_TEXT = "a message of a usual length, as people send them"
_MEMBERS = 4
_CONCURRENCY = 32


class SetUpFailed(RuntimeError):
    """A thread could not be made; without threads there is nothing to measure."""


async def make_threads(url: str, count: int) -> Requests:
    """Create ``count`` threads of five people each; give one add-messages request for each, without any id in it."""
    fresh = random.SystemRandom()
    figures = Figures()
    target = parse_target(url)
    made: Requests = []
    wanted = iter(range(count))

    async def maker() -> None:
        client = Client([target], figures)
        try:
            for _ in wanted:
                made.append(await _make(client, [random_ulid(fresh) for _ in range(1 + _MEMBERS)]))
        finally:
            client.close()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(count, _CONCURRENCY)):
                group.create_task(maker(), name="thread maker")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return made


async def _make(client: Client, accounts: list[str]) -> tuple[str, str]:
    body = msgspec.json.encode(
        {"accountId": accounts[0], "title": "benchmark", "administratorIds": accounts[:1], "memberIds": accounts}
    )
    key = random_ulid(random.SystemRandom())
    for _ in range(20):
        attempt = await client.send("create", "POST", "/v1/threads/create", body, key)
        if attempt.outcome is Outcome.ACCEPTED:
            message = {"accountId": accounts[0], "messages": [{"text": _TEXT}]}
            return f"/v1/threads/{attempt.document['threadId']}/messages/add", msgspec.json.encode(message).decode()
        if attempt.outcome is Outcome.REFUSED:
            break
        await asyncio.sleep(0.1)
    raise SetUpFailed(f"a thread could not be created: {attempt.status or 'no answer'} {attempt.code}")
