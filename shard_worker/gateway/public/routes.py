"""Routes: the one table of everything the public port serves.

Dispatch, ``Allow``, HEAD, OPTIONS and the OpenAPI document all derive from `ROUTES`.  A path is
static, or begins with an id, ``/v1/threads/{threadId}`` or ``/v1/accounts/{accountId}``, with a tail: two dictionary look-ups
find it.  Static paths win, so ``create`` is
never a thread id.  Paths are exact: no trailing slash, no empty id, no percent-encoding beyond what an id needs (none).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from shard_worker.contract import (
    AccountIdPage,
    Done,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    MessagePage,
    Query,
    ReadThread,
)
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.domain.message_window import Side
from shard_worker.domain.refusals import RefusalCode
from shard_worker.gateway.http.json_bounds import MESSAGES, ORDINARY, JsonBounds
from shard_worker.gateway.http.request_body import BODY_LIMIT_BYTES
from shard_worker.gateway.http.response import JSON
from shard_worker.gateway.public import query_params, request_models, responses
from shard_worker.gateway.public.cursors import Position
from shard_worker.gateway.public.docs import DOCS_FIELDS

THREAD: Final = "/v1/threads/{threadId}"
ACCOUNT: Final = "/v1/accounts/{accountId}"
_WITH_AN_ID: Final = ((THREAD, "/v1/threads/"), (ACCOUNT, "/v1/accounts/"))
"""Templates of paths with an id, and how such a path begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRoute:
    """A POST that asks a thread to change."""

    template: str
    operation_id: str
    summary: str
    body: type[request_models.CommandBody]
    render: Callable[[ThreadId, Done], bytes]
    answer_schema: str
    refusals: tuple[RefusalCode, ...]
    creates: bool = False
    body_limit_bytes: int = 128 * 1024
    """The largest body; exactly so much is still allowed."""
    bounds: JsonBounds = ORDINARY
    method: str = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerRoute:
    """A POST that changes how far an account has read, and nothing of the thread."""

    template: str
    operation_id: str
    summary: str
    body: type[request_models.PostedBody]
    answer_schema: str
    refusals: tuple[RefusalCode, ...]
    body_limit_bytes: int = 128 * 1024
    bounds: JsonBounds = ORDINARY
    method: str = "POST"
    creates: Literal[False] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRoute:
    """A GET that reads a thread.  ``position`` tells where the page after a page begins."""

    template: str
    operation_id: str
    summary: str
    parameters: tuple[query_params.Parameter, ...]
    query: Callable[[ThreadId, query_params.QueryValues, Position | None], Query]
    answer_schema: str
    refusals: tuple[RefusalCode, ...] = (RefusalCode.THREAD_NOT_FOUND, RefusalCode.THREAD_DESTROYED)
    method: str = "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRoute:
    """A GET of something that was made when the gateway started."""

    template: str
    operation_id: str
    summary: str
    content_type: str
    fields: bytes
    """The header fields of its answer, ready-made."""
    method: str = "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRoute:
    """A GET of a list over the threads of one account, which the read model answers."""

    template: str
    operation_id: str
    summary: str
    parameters: tuple[query_params.Parameter, ...]
    answer_schema: str
    method: str = "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRoute:
    """A GET whose answer is a stream of events, which does not end; HEAD does not exist for it."""

    template: str
    operation_id: str
    summary: str
    parameters: tuple[query_params.Parameter, ...]
    refusals: tuple[RefusalCode, ...] = (RefusalCode.THREAD_NOT_FOUND, RefusalCode.THREAD_DESTROYED)
    method: str = "GET"


Route = CommandRoute | MarkerRoute | QueryRoute | ListRoute | StreamRoute | DocumentRoute


def _read_thread(thread_id: ThreadId, values: query_params.QueryValues, after: Position | None) -> Query:
    return ReadThread(thread_id, values.account_id, values.min_sequence_nr)


def _account_after(after: Position | None) -> AccountId | None:
    return None if after is None else AccountId(str(after[0]))


def _get_administrators(thread_id: ThreadId, values: query_params.QueryValues, after: Position | None) -> Query:
    return GetAdministratorIds(
        thread_id, values.account_id, values.limit, values.offset, _account_after(after), values.min_sequence_nr
    )


def _get_members(thread_id: ThreadId, values: query_params.QueryValues, after: Position | None) -> Query:
    return GetMemberIds(
        thread_id, values.account_id, values.limit, values.offset, _account_after(after), values.min_sequence_nr
    )


def _get_messages(thread_id: ThreadId, values: query_params.QueryValues, after: Position | None) -> Query:
    account_id, limit, least_nr = values.account_id, values.limit, values.min_sequence_nr
    if values.anchor is not None:
        return GetMessageWindow(thread_id, account_id, limit, *values.anchor, None, least_nr)
    if after is not None and after[0] == Side.BEFORE:
        place = int(after[1]), int(after[2])
        return GetMessageWindow(thread_id, account_id, limit, Side.BEFORE, None, place, least_nr)
    forward = None if after is None else (int(after[0]), int(after[1]))
    return GetMessages(thread_id, account_id, limit, values.offset, forward, least_nr)


def end_of_page(page: AccountIdPage | MessagePage, first_nr: int, *, backwards: bool) -> Position | None:
    """The position of a page's last item when the list goes on after it, or of its first when it goes on backwards.

    It ends with the thread's sequence number at the first page: a source that is behind that one must not answer the next.
    """
    if not page.more:
        return None
    if isinstance(page, AccountIdPage):
        return page.account_ids[-1], first_nr
    if backwards:
        return Side.BEFORE.value, page.messages[0].sequence_nr, page.messages[0].index, first_nr
    return page.messages[-1].sequence_nr, page.messages[-1].index, first_nr


_ON_A_THREAD: Final = (
    RefusalCode.THREAD_NOT_FOUND,
    RefusalCode.THREAD_DESTROYED,
    RefusalCode.IDEMPOTENCY_KEY_REUSED,
)
_BY_AN_ADMINISTRATOR: Final = (*_ON_A_THREAD, RefusalCode.NOT_ADMINISTRATOR)

COMMANDS: Final = (
    CommandRoute(
        template="/v1/threads/create",
        operation_id="createThread",
        summary="Create a thread",
        body=request_models.CreateThreadBody,
        render=responses.created,
        answer_schema="ThreadCreatedAnswer",
        refusals=(
            RefusalCode.THREAD_DESTROYED,
            RefusalCode.ALREADY_EXISTS,
            RefusalCode.PARENT_NOT_READABLE,
            RefusalCode.ADMINISTRATOR_LIMIT,
            RefusalCode.MEMBER_LIMIT,
            RefusalCode.IDEMPOTENCY_KEY_REUSED,
        ),
        creates=True,
    ),
    CommandRoute(
        template=THREAD + "/destroy",
        operation_id="destroyThread",
        summary="Destroy a thread",
        body=request_models.DestroyThreadBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=_BY_AN_ADMINISTRATOR,
    ),
    CommandRoute(
        template=THREAD + "/administrator-ids/join",
        operation_id="joinAdministratorIds",
        summary="Make accounts administrators",
        body=request_models.JoinAdministratorIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.ADMINISTRATOR_LIMIT),
    ),
    CommandRoute(
        template=THREAD + "/administrator-ids/leave",
        operation_id="leaveAdministratorIds",
        summary="Take the administrator's right from accounts",
        body=request_models.LeaveAdministratorIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.LAST_ADMINISTRATOR),
    ),
    CommandRoute(
        template=THREAD + "/member-ids/join",
        operation_id="joinMemberIds",
        summary="Make accounts members",
        body=request_models.JoinMemberIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.MEMBER_LIMIT),
    ),
    CommandRoute(
        template=THREAD + "/member-ids/leave",
        operation_id="leaveMemberIds",
        summary="Remove members; a member may remove himself",
        body=request_models.LeaveMemberIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=_BY_AN_ADMINISTRATOR,
    ),
    CommandRoute(
        template=THREAD + "/messages/add",
        operation_id="addMessages",
        summary="Post messages",
        body=request_models.AddMessagesBody,
        body_limit_bytes=BODY_LIMIT_BYTES,
        bounds=MESSAGES,
        render=responses.messages_changed,
        answer_schema="MessagesChangedAnswer",
        refusals=(
            *_ON_A_THREAD,
            RefusalCode.MESSAGE_LIMIT,
            RefusalCode.MESSAGE_ID_TAKEN,
            RefusalCode.REPLY_NOT_LIVE,
        ),
    ),
    CommandRoute(
        template=THREAD + "/messages/remove",
        operation_id="removeMessages",
        summary="Remove one's own messages",
        body=request_models.RemoveMessagesBody,
        render=responses.messages_changed,
        answer_schema="MessagesChangedAnswer",
        refusals=(*_ON_A_THREAD, RefusalCode.NOT_SENDER),
    ),
)

QUERIES: Final = (
    QueryRoute(
        template=THREAD,
        operation_id="getThread",
        summary="Read a thread",
        parameters=query_params.OF_A_THREAD,
        query=_read_thread,
        answer_schema="ThreadAnswer",
    ),
    QueryRoute(
        template=THREAD + "/administrator-ids",
        operation_id="getAdministratorIds",
        summary="List a thread's administrators",
        parameters=query_params.OF_A_PAGE,
        query=_get_administrators,
        answer_schema="AccountIdsAnswer",
    ),
    QueryRoute(
        template=THREAD + "/member-ids",
        operation_id="getMemberIds",
        summary="List a thread's members",
        parameters=query_params.OF_A_PAGE,
        query=_get_members,
        answer_schema="AccountIdsAnswer",
    ),
    QueryRoute(
        template=THREAD + "/messages",
        operation_id="getMessages",
        summary="List a thread's messages, oldest first",
        parameters=query_params.OF_MESSAGES,
        query=_get_messages,
        answer_schema="MessagesAnswer",
    ),
)

LIST_THREADS: Final = ListRoute(
    template="/v1/threads",
    operation_id="listThreads",
    summary="List the threads that an account can read, newest activity first",
    parameters=query_params.OF_A_LIST,
    answer_schema="ThreadsAnswer",
)
LIST_MENTIONS: Final = ListRoute(
    template=ACCOUNT + "/mentions",
    operation_id="listMentions",
    summary="List the messages that name an account, newest first",
    parameters=query_params.OF_AN_ACCOUNT,
    answer_schema="MentionsAnswer",
)
LISTS: Final = (LIST_THREADS, LIST_MENTIONS)
SET_READ_MARKER: Final = MarkerRoute(
    template=THREAD + "/read-markers/set",
    operation_id="setReadMarker",
    summary="Mark a thread as read up to a message; never back",
    body=request_models.SetReadMarkerBody,
    answer_schema="ReadMarkerAnswer",
    refusals=(RefusalCode.THREAD_NOT_FOUND, RefusalCode.THREAD_DESTROYED, RefusalCode.MESSAGE_NOT_FOUND),
)
OF_THE_READ_MODEL: Final = (*LISTS, SET_READ_MARKER)

THREAD_EVENTS: Final = StreamRoute(
    template=THREAD + "/events",
    operation_id="followThread",
    summary="Follow a thread's events as they happen",
    parameters=query_params.OF_A_STREAM,
)
ACCOUNT_EVENTS: Final = StreamRoute(
    template=ACCOUNT + "/events",
    operation_id="followAccount",
    summary="Follow what happens in the threads that an account can read",
    parameters=query_params.OF_AN_ACCOUNT_STREAM,
    refusals=(),
)
STREAMS: Final = (THREAD_EVENTS, ACCOUNT_EVENTS)

OPENAPI: Final = DocumentRoute(
    template="/openapi.json",
    operation_id="getOpenApi",
    summary="This document",
    content_type="application/json",
    fields=JSON,
)
DOCS: Final = DocumentRoute(
    template="/docs",
    operation_id="getDocs",
    summary="This document for people",
    content_type="text/html",
    fields=DOCS_FIELDS,
)

DOCUMENTS: Final = (OPENAPI, DOCS)
ROUTES: Final[tuple[Route, ...]] = (*COMMANDS, *QUERIES, *OF_THE_READ_MODEL, *STREAMS, *DOCUMENTS)


@dataclass(slots=True)
class Resource:
    """One path: its route for each method, HEAD included, and what ``Allow`` says."""

    routes: dict[str, Route] = field(default_factory=dict)
    allow: str = "OPTIONS"

    def add(self, route: Route) -> None:
        """Serve one more method."""
        if route.method in self.routes:
            raise ValueError(f"{route.method} {route.template} is in the table twice")
        self.routes[route.method] = route
        if route.method == "GET" and not isinstance(route, StreamRoute):
            self.routes["HEAD"] = route
        self.allow = ", ".join(sorted({*self.routes, "OPTIONS"}))


class Router:
    """Finds the resource of a path."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._static: dict[str, Resource] = {}
        self._by_id: dict[str, dict[str, Resource]] = {prefix: {} for _, prefix in _WITH_AN_ID}
        for route in routes:
            paths, tail = self._static, route.template
            for template, prefix in _WITH_AN_ID:
                if route.template.startswith(template):
                    paths, tail = self._by_id[prefix], route.template.removeprefix(template).removeprefix("/")
            paths.setdefault(tail, Resource()).add(route)

    def find(self, path: str) -> tuple[Resource | None, str]:
        """The resource of an exact path, and its id segment as it was written ("" for a static path)."""
        resource = self._static.get(path)
        if resource is not None:
            return resource, ""
        for prefix, resources in self._by_id.items():
            if path.startswith(prefix):
                segment, slash, tail = path[len(prefix) :].partition("/")
                if not segment or (slash and not tail):
                    return None, ""
                return resources.get(tail), segment
        return None, ""
