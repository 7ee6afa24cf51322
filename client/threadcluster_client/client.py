"""The client: commands, queries and streams of one ThreadCluster."""

import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

from threadcluster_client.errors import UnexpectedAnswer
from threadcluster_client.follow import Follow
from threadcluster_client.models import (
    Message,
    MessagesChanged,
    NewMessage,
    Page,
    ReadMarker,
    Thread,
    ThreadChanged,
    message_of,
    new_message_fields,
    thread_of,
)
from threadcluster_client.transport import Answer, Call, Limits, Transport

T = TypeVar("T")


class Query(Generic[T]):
    """A list of the server: iterate over its items, or over its `pages`.  Each page is a call with a deadline of its own."""

    def __init__(self, fetch: Callable[[str | None], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def pages(self) -> AsyncIterator[Page[T]]:
        """The pages, from the first on."""
        page = await self._fetch(None)
        yield page
        while page.next_cursor is not None:
            page = await self._fetch(page.next_cursor)
            yield page

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.items:
                yield item


class Client:
    """A client of a ThreadCluster, for one event loop; use as an async context manager, or `close` it.

    Every command takes an ``idempotency_key``, else it makes one, and sends the same bytes until an answer comes or its
    deadline is over.  The account of a call is trusted by the server: authentication is the caller's.

    With ``map_url``, the ``/cluster`` of a management port that the caller reaches, a call on a thread goes to the worker that
    owns it, which saves a hop; without an answer from there, and after a fault, it goes to ``base_url``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        map_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._transport = Transport(
            base_url, map_url=map_url, headers=headers or {}, ssl_context=ssl_context, limits=limits or Limits()
        )

    async def __aenter__(self) -> Self:
        self._transport.bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and streams, and give all connections back."""
        await self._transport.close()

    # Commands

    async def create_thread(
        self,
        account_id: str,
        title: str,
        *,
        administrator_ids: Iterable[str] | None = None,
        member_ids: Iterable[str] = (),
        parent_thread_id: str | None = None,
        remarks: str | None = None,
        thread_id: str | None = None,
        created_at: int | None = None,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> ThreadChanged:
        """Create a thread; its administrator is the account where no others are named."""
        body = {
            "accountId": account_id,
            "title": title,
            "administratorIds": [account_id] if administrator_ids is None else list(administrator_ids),
            "memberIds": list(member_ids),
            "parentThreadId": parent_thread_id,
            "remarks": remarks,
            "threadId": thread_id,
            "createAt": created_at,
        }
        return _changed(await self._command("/v1/threads/create", body, idempotency_key, deadline_s))

    async def destroy_thread(
        self, thread_id: str, account_id: str, *, idempotency_key: str | None = None, deadline_s: float | None = None
    ) -> ThreadChanged:
        """Destroy a thread, for good."""
        body = {"accountId": account_id}
        return _changed(await self._command(_path(thread_id, "destroy"), body, idempotency_key, deadline_s))

    async def join_administrators(
        self,
        thread_id: str,
        account_id: str,
        account_ids: Iterable[str],
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> ThreadChanged:
        """Make accounts administrators."""
        body = {"accountId": account_id, "accountIds": list(account_ids)}
        path = _path(thread_id, "administrator-ids/join")
        return _changed(await self._command(path, body, idempotency_key, deadline_s))

    async def leave_administrators(
        self,
        thread_id: str,
        account_id: str,
        administrator_ids: Iterable[str],
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> ThreadChanged:
        """Let accounts be administrators no more."""
        body = {"accountId": account_id, "administratorIds": list(administrator_ids)}
        path = _path(thread_id, "administrator-ids/leave")
        return _changed(await self._command(path, body, idempotency_key, deadline_s))

    async def join_members(
        self,
        thread_id: str,
        account_id: str,
        account_ids: Iterable[str],
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> ThreadChanged:
        """Make accounts members."""
        body = {"accountId": account_id, "accountIds": list(account_ids)}
        return _changed(await self._command(_path(thread_id, "member-ids/join"), body, idempotency_key, deadline_s))

    async def leave_members(
        self,
        thread_id: str,
        account_id: str,
        account_ids: Iterable[str],
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> ThreadChanged:
        """Let accounts be members no more; members may remove themselves."""
        body = {"accountId": account_id, "accountIds": list(account_ids)}
        return _changed(await self._command(_path(thread_id, "member-ids/leave"), body, idempotency_key, deadline_s))

    async def add_messages(
        self,
        thread_id: str,
        account_id: str,
        messages: Iterable[NewMessage | str],
        *,
        created_at: int | None = None,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> MessagesChanged:
        """Post messages, all or none; a text alone is a message too."""
        body = {
            "accountId": account_id,
            "messages": [new_message_fields(message) for message in messages],
            "createAt": created_at,
        }
        path = _path(thread_id, "messages/add")
        return _messages_changed(await self._command(path, body, idempotency_key, deadline_s))

    async def remove_messages(
        self,
        thread_id: str,
        account_id: str,
        message_ids: Iterable[str],
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> MessagesChanged:
        """Remove the account's own messages; the answer names those that were there."""
        body = {"accountId": account_id, "messageIds": list(message_ids)}
        path = _path(thread_id, "messages/remove")
        return _messages_changed(await self._command(path, body, idempotency_key, deadline_s))

    async def set_read_marker(
        self, thread_id: str, account_id: str, message_id: str, *, deadline_s: float | None = None
    ) -> ReadMarker:
        """Move the account's marker forward to a message; never back."""
        body = {"accountId": account_id, "messageId": message_id}
        answer = await self._command(_path(thread_id, "read-markers/set"), body, None, deadline_s)
        return _decoded(answer, lambda raw: ReadMarker(raw["threadId"], raw["messageId"]))

    # Queries

    async def thread(
        self,
        thread_id: str,
        account_id: str,
        *,
        min_sequence_nr: int | None = None,
        deadline_s: float | None = None,
    ) -> Thread:
        """One thread."""
        query = {"account_id": account_id, "min_sequence_nr": min_sequence_nr}
        answer = await self._get(_path(thread_id), query, deadline_s)
        return _decoded(answer, lambda raw: thread_of(raw["result"]))

    def threads(self, account_id: str, *, limit: int | None = None, deadline_s: float | None = None) -> Query[Thread]:
        """The threads that the account can read, newest activity first."""
        query = {"account_id": account_id, "limit": limit}
        return self._query("/v1/threads", "results", thread_of, query, {}, deadline_s)

    def administrators(
        self,
        thread_id: str,
        account_id: str,
        *,
        limit: int | None = None,
        min_sequence_nr: int | None = None,
        deadline_s: float | None = None,
    ) -> Query[str]:
        """The ids of the thread's administrators, in their order."""
        query, path = {"account_id": account_id, "limit": limit}, _path(thread_id, "administrator-ids")
        return self._query(path, "results", str, query, {"min_sequence_nr": min_sequence_nr}, deadline_s)

    def members(
        self,
        thread_id: str,
        account_id: str,
        *,
        limit: int | None = None,
        min_sequence_nr: int | None = None,
        deadline_s: float | None = None,
    ) -> Query[str]:
        """The ids of the thread's members, in their order; without its administrators."""
        query, path = {"account_id": account_id, "limit": limit}, _path(thread_id, "member-ids")
        return self._query(path, "results", str, query, {"min_sequence_nr": min_sequence_nr}, deadline_s)

    def messages(
        self,
        thread_id: str,
        account_id: str,
        *,
        before: str | None = None,
        after: str | None = None,
        around: str | None = None,
        limit: int | None = None,
        min_sequence_nr: int | None = None,
        deadline_s: float | None = None,
    ) -> Query[Message]:
        """The thread's messages.  Each page is oldest first; the pages of ``before`` go backwards."""
        query, path = {"account_id": account_id, "limit": limit}, _path(thread_id, "messages")
        first = {"before": before, "after": after, "around": around, "min_sequence_nr": min_sequence_nr}
        return self._query(path, "result", message_of, query, first, deadline_s)

    def mentions(self, account_id: str, *, limit: int | None = None, deadline_s: float | None = None) -> Query[Message]:
        """Messages that name the account, in threads that it can read, newest first."""
        path = f"/v1/accounts/{quote(account_id, safe='')}/mentions"
        return self._query(path, "result", message_of, {"limit": limit}, {}, deadline_s)

    # Streams

    def follow(self, thread_id: str, account_id: str, *, position: str | None = None) -> Follow:
        """The thread's events after a position, each once and in order; from now on where none is given."""
        return Follow(self._transport, _path(thread_id, "events"), account_id=account_id, position=position)

    def follow_account(self, account_id: str, *, position: str | None = None) -> Follow:
        """The events of all threads that the account can read, each once, and in order within a thread."""
        return Follow(self._transport, f"/v1/accounts/{quote(account_id, safe='')}/events", position=position)

    async def _command(
        self, path: str, body: Mapping[str, Any], idempotency_key: str | None, deadline_s: float | None
    ) -> Answer:
        given = {name: value for name, value in body.items() if value is not None}
        # A lone surrogate is sent as it is: the server refuses it as it does every other bad string.
        raw = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        key = secrets.token_urlsafe(16) if idempotency_key is None else idempotency_key
        return await self._transport.send(
            Call("POST", self._transport.url(path, {}), raw, key, _thread_of(path)), deadline_s
        )

    async def _get(self, path: str, query: Mapping[str, str | int | None], deadline_s: float | None) -> Answer:
        call = Call("GET", self._transport.url(path, query), thread_id=_thread_of(path))
        return await self._transport.send(call, deadline_s)

    def _query(
        self,
        path: str,
        field: str,
        item_of: Callable[[Any], T],
        query: Mapping[str, str | int | None],
        of_first_page: Mapping[str, str | int | None],
        deadline_s: float | None,
    ) -> Query[T]:
        def page_of(raw: Mapping[str, Any]) -> Page[T]:
            return Page(
                tuple(item_of(each) for each in raw[field]),
                raw.get("nextCursor"),
                raw.get("sequenceNr"),
                raw.get("position"),
                tuple(raw.get("poisoned") or ()),
            )

        async def fetch(cursor: str | None) -> Page[T]:
            more = of_first_page if cursor is None else {"cursor": cursor}
            return _decoded(await self._get(path, {**query, **more}, deadline_s), page_of)

        return Query(fetch)


def _path(thread_id: str, *rest: str) -> str:
    return "/".join(("/v1/threads", quote(thread_id, safe=""), *rest))


def _thread_of(path: str) -> str | None:
    """The thread that a path is about; a text that is none, as `create`, has no owner."""
    parts = path.split("/")
    return parts[3] if len(parts) > 3 else None


def _decoded(answer: Answer, decode: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return decode(answer.document)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(f"the answer lacks a field: {error}") from error


def _changed(answer: Answer) -> ThreadChanged:
    return _decoded(
        answer, lambda raw: ThreadChanged(raw["threadId"], raw["sequenceNr"], raw["position"], answer.replayed)
    )


def _messages_changed(answer: Answer) -> MessagesChanged:
    return _decoded(
        answer,
        lambda raw: MessagesChanged(tuple(raw["messageIds"]), raw["sequenceNr"], raw["position"], answer.replayed),
    )
