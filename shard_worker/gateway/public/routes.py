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
from shard_worker.gateway.public.docs import (
    DOCS_FIELDS,
    SCRIPT_FIELDS,
    SCRIPT_PATH,
    START_FIELDS,
    STYLE_FIELDS,
    STYLE_PATH,
)

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
    description: str
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
    description: str
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
    description: str
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
    description: str
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
    description: str
    parameters: tuple[query_params.Parameter, ...]
    answer_schema: str
    method: str = "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRoute:
    """A GET whose answer is a stream of events, which does not end; HEAD does not exist for it."""

    template: str
    operation_id: str
    summary: str
    description: str
    parameters: tuple[query_params.Parameter, ...]
    last_event_id: query_params.Parameter
    """The header field."""
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
        description="Create a thread with its administrators and members. Send an `Idempotency-Key`, or choose the "
        "`threadId`: then the request may be sent again until it is answered, and comes to one thread.",
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
        description="Destroy a thread for good; administrators only. Those who could read it get 410 from then on.",
        body=request_models.DestroyThreadBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=_BY_AN_ADMINISTRATOR,
    ),
    CommandRoute(
        template=THREAD + "/administrator-ids/join",
        operation_id="joinAdministratorIds",
        summary="Make accounts administrators",
        description="Make accounts administrators; administrators only. One that is an administrator already stays one.",
        body=request_models.JoinAdministratorIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.ADMINISTRATOR_LIMIT),
    ),
    CommandRoute(
        template=THREAD + "/administrator-ids/leave",
        operation_id="leaveAdministratorIds",
        summary="Take the administrator's right from accounts",
        description="Take the administrator's right from accounts; administrators only, for themselves too. At least one "
        "administrator stays.",
        body=request_models.LeaveAdministratorIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.LAST_ADMINISTRATOR),
    ),
    CommandRoute(
        template=THREAD + "/member-ids/join",
        operation_id="joinMemberIds",
        summary="Make accounts members",
        description="Make accounts members; administrators only. One that is a member already stays one.",
        body=request_models.JoinMemberIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=(*_BY_AN_ADMINISTRATOR, RefusalCode.MEMBER_LIMIT),
    ),
    CommandRoute(
        template=THREAD + "/member-ids/leave",
        operation_id="leaveMemberIds",
        summary="Remove members; a member may remove himself",
        description="Remove members; administrators only, but a member may leave with a list of the own id alone.",
        body=request_models.LeaveMemberIdsBody,
        render=responses.changed,
        answer_schema="ThreadChangedAnswer",
        refusals=_BY_AN_ADMINISTRATOR,
    ),
    CommandRoute(
        template=THREAD + "/messages/add",
        operation_id="addMessages",
        summary="Post messages",
        description="Post messages, all of them or none; members only. Send an `Idempotency-Key`, or choose each "
        "`messageId`: then the request may be sent again until it is answered, and posts once.",
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
        description="Remove messages of the caller. Ids that are not live in this thread are ignored; a message of "
        "another account refuses the whole request.",
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
        description="Read what a thread is called, when it changed last, and the position from which a stream goes on.",
        parameters=query_params.OF_A_THREAD,
        query=_read_thread,
        answer_schema="ThreadAnswer",
    ),
    QueryRoute(
        template=THREAD + "/administrator-ids",
        operation_id="getAdministratorIds",
        summary="List a thread's administrators",
        description="List all administrators of a thread, in the order of their ids. Go on with `nextCursor` until it is "
        "null.",
        parameters=query_params.OF_A_PAGE,
        query=_get_administrators,
        answer_schema="AccountIdsAnswer",
    ),
    QueryRoute(
        template=THREAD + "/member-ids",
        operation_id="getMemberIds",
        summary="List a thread's members",
        description="List all members of a thread, in the order of their ids, administrators who are no members not among"
        " them. Go on with `nextCursor` until it is null.",
        parameters=query_params.OF_A_PAGE,
        query=_get_members,
        answer_schema="AccountIdsAnswer",
    ),
    QueryRoute(
        template=THREAD + "/messages",
        operation_id="getMessages",
        summary="List a thread's messages, oldest first",
        description="List the live messages of a thread, oldest first, from its beginning, or about a message with "
        "`before`, `after` or `around`. Go on with `nextCursor` until it is null. A page is shorter than "
        "`limit` when the answer reaches 1 MiB.",
        parameters=query_params.OF_MESSAGES,
        query=_get_messages,
        answer_schema="MessagesAnswer",
    ),
)

LIST_THREADS: Final = ListRoute(
    template="/v1/threads",
    operation_id="listThreads",
    summary="List the threads that an account can read, newest activity first",
    description="List the threads that an account can read, those with the newest activity first, each with the count"
    " of its unread messages. Go on with `nextCursor` until it is null; a thread that does not change "
    "meanwhile is shown exactly once.",
    parameters=query_params.OF_A_LIST,
    answer_schema="ThreadsAnswer",
)
LIST_MENTIONS: Final = ListRoute(
    template=ACCOUNT + "/mentions",
    operation_id="listMentions",
    summary="List the messages that name an account, newest first",
    description="List the messages whose `toAccountIds` name the account, in threads that it can read, newest first. "
    "Go on with `nextCursor` until it is null.",
    parameters=query_params.OF_AN_ACCOUNT,
    answer_schema="MentionsAnswer",
)
LISTS: Final = (LIST_THREADS, LIST_MENTIONS)
SET_READ_MARKER: Final = MarkerRoute(
    template=THREAD + "/read-markers/set",
    operation_id="setReadMarker",
    summary="Mark a thread as read up to a message; never back",
    description="Move the account's read marker forward to a message; an earlier message changes nothing. The request"
    " may be sent again at any time. An `Idempotency-Key` is checked and otherwise ignored.",
    body=request_models.SetReadMarkerBody,
    answer_schema="ReadMarkerAnswer",
    refusals=(RefusalCode.THREAD_NOT_FOUND, RefusalCode.THREAD_DESTROYED, RefusalCode.MESSAGE_NOT_FOUND),
)
OF_THE_READ_MODEL: Final = (*LISTS, SET_READ_MARKER)

_READ_A_STREAM: Final = """

**How to read it.** The answer does not end, so a generated client, which waits for the whole of it, is the wrong reader. In a
browser: `new EventSource(url)`, which comes back by itself with `Last-Event-ID`. Elsewhere: a client of server-sent events, or any
HTTP client that hands over the body as it comes (`curl -N`; httpx `client.stream`; `fetch` with `response.body`): split it into
lines at CR, LF and CRLF alone, keep the last `id`, and after the connection is lost send it as `Last-Event-ID`. Take 50 s without a
byte for a broken connection."""
_FOLLOW_THREAD: Final = (
    """\
Server-sent events, one a domain event, in the order of their sequence numbers, none missed and none twice: `id` is the position,
`event` the type, `data` its JSON on one line with `threadId`, `sequenceNr` and `epoch`. The stream opens with its position alone.
`reset` says that the position given is not in the history any more: read the thread again. `error`, whose `data` is a problem, ends
the stream. Comments keep the connection alive."""
    + _READ_A_STREAM
)
_FOLLOW_ACCOUNT: Final = (
    """\
Server-sent events, one a domain event: `event` is the type, `data` its JSON on one line with `threadId`, `sequenceNr` and `epoch`.
In order within a thread, at least once: drop what you have by these three. The stream opens with its position alone; newer ones
come alone, as an `id` without data. `reset`, with a `threadId` of null, says that any thread may have lost events: list them again.
`error`, whose `data` is a problem with a `threadId`, says that the stream goes on without that thread. Comments keep the connection
alive."""
    + _READ_A_STREAM
)

THREAD_EVENTS: Final = StreamRoute(
    template=THREAD + "/events",
    operation_id="followThread",
    summary="Follow a thread's events as they happen",
    description=_FOLLOW_THREAD,
    parameters=query_params.OF_A_STREAM,
    last_event_id=query_params.LAST_EVENT_ID_FIELD,
)
ACCOUNT_EVENTS: Final = StreamRoute(
    template=ACCOUNT + "/events",
    operation_id="followAccount",
    summary="Follow what happens in the threads that an account can read",
    description=_FOLLOW_ACCOUNT,
    parameters=query_params.OF_AN_ACCOUNT_STREAM,
    last_event_id=query_params.LAST_EVENT_ID_FIELD_OF_AN_ACCOUNT,
    refusals=(),
)
STREAMS: Final = (THREAD_EVENTS, ACCOUNT_EVENTS)

OPENAPI: Final = DocumentRoute(
    template="/openapi.json",
    operation_id="getOpenApi",
    summary="This document",
    description="The OpenAPI 3.1 document of this port.",
    content_type="application/json",
    fields=JSON,
)
DOCS: Final = DocumentRoute(
    template="/docs",
    operation_id="getDocs",
    summary="This document for people",
    description="A page that shows this document, with a form to try each operation. It loads nothing from elsewhere.",
    content_type="text/html",
    fields=DOCS_FIELDS,
)

START: Final = DocumentRoute(
    template="/",
    operation_id="getStart",
    summary="Where the console and the documents are",
    description="A page with two addresses, of a local cluster alone.",
    content_type="text/html",
    fields=START_FIELDS,
)
"""Not in the document: only a local cluster has it."""
DOCS_SCRIPT: Final = DocumentRoute(
    template=SCRIPT_PATH,
    operation_id="getDocsScript",
    summary="Swagger UI",
    description="The script of the page.",
    content_type="text/javascript",
    fields=SCRIPT_FIELDS,
)
DOCS_STYLE: Final = DocumentRoute(
    template=STYLE_PATH,
    operation_id="getDocsStyle",
    summary="Swagger UI's style",
    description="The style of the page.",
    content_type="text/css",
    fields=STYLE_FIELDS,
)

DOCUMENTS: Final = (OPENAPI, DOCS)
PARTS_OF_DOCS: Final = (DOCS_SCRIPT, DOCS_STYLE)
"""Files of the page; the document does not list them."""
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
