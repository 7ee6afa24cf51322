"""The reference's client: its requests to every route, and decoders as strict as its own of each answer.

As circe derives decoders from case classes: a field that is no `Option` must be there and of its type, an `Option` may be null or
missing, and fields that the client does not know are passed over.  The names are the reference's: a create answers `thread_id`, the page
of messages `result`.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.support.load.client import Client, Outcome


class _Answer(Struct, rename="camel", kw_only=True):
    error_messages: list[str] = msgspec.field(name="error_messages")


class CreateThreadAnswer(_Answer):
    """Of a create."""

    thread_id: str | None = msgspec.field(name="thread_id", default=None)


class ChangedThreadAnswer(_Answer):
    """Of a destroy, a join and a leave."""

    thread_id: str | None = None


class MessageIdsAnswer(_Answer):
    """Of adding and of removing messages."""

    message_ids: list[str]


class ThreadJson(Struct, rename="camel", kw_only=True):
    """A thread."""

    id: str
    creator_id: str
    parent_thread_id: str | None = None
    title: str
    remarks: str | None = None
    created_at: int
    updated_at: int


class ThreadMessageJson(Struct, rename="camel", kw_only=True):
    """A message."""

    id: str
    thread_id: str
    sender_id: str
    type: str
    body: str
    created_at: int
    updated_at: int


class ThreadAnswer(_Answer):
    """Of one thread."""

    result: ThreadJson


class ThreadsAnswer(_Answer):
    """Of the list of threads."""

    results: list[ThreadJson]


class AccountIdsAnswer(_Answer):
    """Of administrators and of members."""

    results: list[str]


class MessagesAnswer(_Answer):
    """Of the messages."""

    result: list[ThreadMessageJson]


DECODERS: Final[dict[str, type[_Answer]]] = {
    "create": CreateThreadAnswer,
    "destroy": ChangedThreadAnswer,
    "administrator-ids/join": ChangedThreadAnswer,
    "administrator-ids/leave": ChangedThreadAnswer,
    "member-ids/join": ChangedThreadAnswer,
    "member-ids/leave": ChangedThreadAnswer,
    "messages/add": MessageIdsAnswer,
    "messages/remove": MessageIdsAnswer,
    "get": ThreadAnswer,
    "threads": ThreadsAnswer,
    "administrator-ids": AccountIdsAnswer,
    "member-ids": AccountIdsAnswer,
    "messages": MessagesAnswer,
}
"""By operation, every answer that the reference's client decodes."""


class ReferenceClient:
    """One user of the reference's client.  An answer that is refused or does not decode is an `AssertionError`."""

    def __init__(self, client: Client, account_id: str) -> None:
        self._client = client
        self._account_id = account_id
        self.decoded: set[str] = set()
        """Operations whose answer was decoded."""

    async def _ask(
        self, operation: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Any:  # an answer
        raw = None if body is None else msgspec.json.encode(body | {"accountId": self._account_id, "createAt": _now()})
        attempt = await self._client.send(operation, method, path, raw)
        assert attempt.outcome is Outcome.ACCEPTED, (
            f"{operation}: {attempt.outcome} {attempt.status} {attempt.document}"
        )
        answer = msgspec.convert(attempt.document, DECODERS[operation], strict=True)
        assert answer.error_messages == [], operation
        self.decoded.add(operation)
        return answer

    async def _command(self, thread_id: str, operation: str, **body: object) -> Any:  # an answer
        return await self._ask(operation, "POST", f"/v1/threads/{thread_id}/{operation}", body)

    async def _query(self, thread_id: str, operation: str) -> Any:  # an answer
        path = f"/v1/threads/{thread_id}/{operation}?account_id={self._account_id}&offset=0&limit=10"
        return await self._ask(operation, "GET", path)

    async def life_of_a_thread(self, other_id: str, ulid: Callable[[], str]) -> None:
        """Every command and query once, on a thread of its own."""
        me = self._account_id
        body = {
            "parentThreadId": None,
            "title": "a thread",
            "remarks": "of the reference",
            "administratorIds": [me],
            "memberIds": [me],
        }
        thread_id = (await self._ask("create", "POST", "/v1/threads/create", body)).thread_id
        assert isinstance(thread_id, str)
        await self._command(thread_id, "administrator-ids/join", accountIds=[other_id])
        await self._command(thread_id, "member-ids/join", accountIds=[other_id])
        [first] = (
            await self._command(thread_id, "messages/add", messages=[{"toAccountIds": [], "text": "a"}])
        ).message_ids
        reply = {"replyMessageId": first, "toAccountIds": [other_id], "text": "b"}
        [second] = (await self._command(thread_id, "messages/add", messages=[reply])).message_ids
        assert (await self._command(thread_id, "messages/remove", messageIds=[first])).message_ids == [first]
        assert (await self._get(thread_id)).id == thread_id
        assert sorted((await self._query(thread_id, "administrator-ids")).results) == sorted([me, other_id])
        assert sorted((await self._query(thread_id, "member-ids")).results) == sorted([me, other_id])
        assert [each.id for each in (await self._query(thread_id, "messages")).result] == [second]
        await self._ask("threads", "GET", f"/v1/threads?account_id={me}&offset=0&limit=10")
        await self._command(thread_id, "administrator-ids/leave", administratorIds=[other_id])
        await self._command(thread_id, "member-ids/leave", accountIds=[other_id])
        await self._command(thread_id, "destroy")
        await self._refused(f"/v1/threads/{ulid()}?account_id={me}")

    async def _get(self, thread_id: str) -> ThreadJson:
        found: ThreadJson = (
            await self._ask("get", "GET", f"/v1/threads/{thread_id}?account_id={self._account_id}")
        ).result
        return found

    async def _refused(self, path: str) -> None:
        """A refusal too has the field that the client reads."""
        attempt = await self._client.send("not found", "GET", path)
        assert (attempt.outcome, attempt.status) == (Outcome.REFUSED, 404), attempt
        assert msgspec.convert(attempt.document, _Answer, strict=True).error_messages


def _now() -> int:
    return int(time.time() * 1000)
