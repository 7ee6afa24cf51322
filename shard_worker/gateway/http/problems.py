"""Problems: everything the gateway answers that is not a 200, as RFC 9457 ``application/problem+json``.

`ProblemCode` is the closed enum a client programs against.  The domain's refusals and the owner's "not now" keep their
own names in it; the rest are the gateway's.  One code has one status, wherever it comes from.  A `Problem` is a value;
`ProblemRaised` carries one out of a parser.
"""

from enum import StrEnum
from typing import Final

import msgspec

from shard_worker.contract import Unavailable, UnavailableCode
from shard_worker.domain.ids import ThreadId
from shard_worker.domain.refusals import Refusal
from shard_worker.gateway.http.failures import Failure


class ProblemCode(StrEnum):
    """Values of ``code`` in a problem document."""

    MALFORMED_HTTP = "malformed-http"
    MALFORMED_JSON = "malformed-json"
    VALIDATION_FAILED = "validation-failed"
    ROUTE_NOT_FOUND = "route-not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    REQUEST_TIMEOUT = "request-timeout"
    BODY_TOO_LARGE = "body-too-large"
    TARGET_TOO_LONG = "target-too-long"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    MISDIRECTED_REQUEST = "misdirected-request"
    HEADERS_TOO_LARGE = "headers-too-large"
    TRANSFER_ENCODING_UNKNOWN = "transfer-encoding-unknown"
    UNAUTHORIZED = "unauthorized"
    PLAN_STALE = "plan-stale"
    WORKER_NOT_FOUND = "worker-not-found"
    DATABASE_AWAY = "database-away"
    DATABASE_CLAIMED_BY_OTHER = "database-claimed-by-other"
    INTERNAL_ERROR = "internal-error"

    THREAD_NOT_FOUND = "thread-not-found"
    THREAD_DESTROYED = "thread-destroyed"
    NOT_ADMINISTRATOR = "not-administrator"
    NOT_SENDER = "not-sender"
    ALREADY_EXISTS = "already-exists"
    PARENT_NOT_READABLE = "parent-not-readable"
    LAST_ADMINISTRATOR = "last-administrator"
    ADMINISTRATOR_LIMIT = "administrator-limit"
    MEMBER_LIMIT = "member-limit"
    MESSAGE_LIMIT = "message-limit"
    MESSAGE_ID_TAKEN = "message-id-taken"
    REPLY_NOT_LIVE = "reply-not-live"
    MESSAGE_NOT_FOUND = "message-not-found"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"

    SHARD_UNAVAILABLE = "shard-unavailable"
    OVERLOADED = "overloaded"
    TOO_MANY_STREAMS = "too-many-streams"
    LEAVING = "leaving"
    THREAD_POISONED = "thread-poisoned"
    OUTCOME_UNKNOWN = "outcome-unknown"
    READ_MODEL_BEHIND = "read-model-behind"


_STATUS_AND_TITLE: Final[dict[ProblemCode, tuple[int, str]]] = {
    ProblemCode.MALFORMED_HTTP: (400, "The request is not HTTP"),
    ProblemCode.MALFORMED_JSON: (400, "The body is not JSON"),
    ProblemCode.VALIDATION_FAILED: (400, "The request is not valid"),
    ProblemCode.ROUTE_NOT_FOUND: (404, "No such path"),
    ProblemCode.METHOD_NOT_ALLOWED: (405, "The path has no such method"),
    ProblemCode.NOT_ACCEPTABLE: (406, "The client accepts no event stream"),
    ProblemCode.REQUEST_TIMEOUT: (408, "The request did not arrive in time"),
    ProblemCode.BODY_TOO_LARGE: (413, "The body is too large"),
    ProblemCode.TARGET_TOO_LONG: (414, "The request target is too long"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: (415, "The body is not of type application/json"),
    ProblemCode.MISDIRECTED_REQUEST: (421, "The request was meant for another host"),
    ProblemCode.HEADERS_TOO_LARGE: (431, "The header fields are too large"),
    ProblemCode.TRANSFER_ENCODING_UNKNOWN: (501, "The transfer encoding is not known here"),
    ProblemCode.UNAUTHORIZED: (401, "A certificate of the cluster is missing"),
    ProblemCode.PLAN_STALE: (409, "A newer plan is in force"),
    ProblemCode.WORKER_NOT_FOUND: (404, "No such worker"),
    ProblemCode.DATABASE_AWAY: (503, "Postgres does not answer"),
    ProblemCode.DATABASE_CLAIMED_BY_OTHER: (409, "The database belongs to another cluster"),
    ProblemCode.INTERNAL_ERROR: (500, "The worker failed"),
    ProblemCode.THREAD_NOT_FOUND: (404, "No such thread"),
    ProblemCode.THREAD_DESTROYED: (410, "The thread was destroyed"),
    ProblemCode.NOT_ADMINISTRATOR: (403, "Only an administrator may do this"),
    ProblemCode.NOT_SENDER: (403, "Only the sender may remove a message"),
    ProblemCode.ALREADY_EXISTS: (409, "The thread exists already"),
    ProblemCode.PARENT_NOT_READABLE: (409, "The parent thread cannot be read"),
    ProblemCode.LAST_ADMINISTRATOR: (409, "A thread keeps at least one administrator"),
    ProblemCode.ADMINISTRATOR_LIMIT: (409, "The thread has too many administrators"),
    ProblemCode.MEMBER_LIMIT: (409, "The thread has too many members"),
    ProblemCode.MESSAGE_LIMIT: (409, "The thread has too many messages"),
    ProblemCode.MESSAGE_ID_TAKEN: (409, "The message id is taken"),
    ProblemCode.REPLY_NOT_LIVE: (409, "The message replied to is not there"),
    ProblemCode.MESSAGE_NOT_FOUND: (409, "The thread has and had no such message"),
    ProblemCode.IDEMPOTENCY_KEY_REUSED: (409, "The idempotency key was used for another request"),
    ProblemCode.SHARD_UNAVAILABLE: (503, "The thread cannot be reached right now"),
    ProblemCode.OVERLOADED: (503, "The worker is overloaded"),
    ProblemCode.TOO_MANY_STREAMS: (503, "As many streams are open as may be"),
    ProblemCode.LEAVING: (503, "The worker is leaving"),
    ProblemCode.THREAD_POISONED: (503, "The thread's history cannot be read by this release"),
    ProblemCode.OUTCOME_UNKNOWN: (503, "Whether the command was stored is not known"),
    ProblemCode.READ_MODEL_BEHIND: (504, "The read model is behind"),
}

OF_MANAGEMENT: Final = frozenset(
    {
        ProblemCode.UNAUTHORIZED,
        ProblemCode.PLAN_STALE,
        ProblemCode.WORKER_NOT_FOUND,
        ProblemCode.DATABASE_AWAY,
        ProblemCode.DATABASE_CLAIMED_BY_OTHER,
    }
)
"""Codes that only the management port answers."""

REFUSED_MESSAGES: Final = 1_000
"""How many failures one answer lists: the first."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answer that is not a 200.

    ``errors`` are the failures of a request that is not valid.  ``thread_id`` is set where a create's outcome is unknown; ``allow``
    belongs to 405; ``close`` asks for the connection to end, because what follows on it cannot be trusted.
    """

    code: ProblemCode
    detail: str
    errors: tuple[Failure, ...] = ()
    thread_id: ThreadId | None = None
    retry_after_s: float | None = None
    allow: str | None = None
    close: bool = False

    @property
    def status(self) -> int:
        """The HTTP status of this code."""
        return status_of(self.code)


WORKER_FAILED: Final = Problem(code=ProblemCode.INTERNAL_ERROR, detail="the worker failed; see its log")
"""The answer to a fault of this program, which is in the log."""


class ProblemRaised(Exception):
    """Ends the handling of a request with a `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def status_of(code: ProblemCode) -> int:
    """The HTTP status that a code has everywhere."""
    return _STATUS_AND_TITLE[code][0]


def title_of(code: ProblemCode) -> str:
    """The one line a person reads first."""
    return _STATUS_AND_TITLE[code][1]


def invalid(*failures: Failure) -> ProblemRaised:
    """400 with the failures that were found, the first `REFUSED_MESSAGES` of them."""
    first = failures[0].sentence
    detail = first if len(failures) == 1 else f"{len(failures)} failures; the first: {first}"
    if len(failures) > REFUSED_MESSAGES:
        detail = f"more than {REFUSED_MESSAGES} failures; the first: {first}"
    listed = failures[:REFUSED_MESSAGES]
    return ProblemRaised(Problem(code=ProblemCode.VALIDATION_FAILED, detail=detail, errors=listed))


def of_refusal(refusal: Refusal) -> Problem:
    """The domain's no, as the client sees it."""
    return Problem(code=ProblemCode(refusal.code.value), detail=refusal.detail)


def of_unavailable(answer: Unavailable, *, thread_id: ThreadId | None = None) -> Problem:
    """Problem of a request that the owner did not serve; ``thread_id`` is that of a create with an unknown outcome."""
    return Problem(
        code=ProblemCode(answer.code.value),
        detail=answer.detail,
        thread_id=thread_id if answer.code is UnavailableCode.OUTCOME_UNKNOWN else None,
        retry_after_s=answer.retry_after_s,
    )


def of_read(answer: Unavailable) -> Unavailable:
    """The same for a request that stores nothing: its outcome is never unknown."""
    if answer.code is UnavailableCode.OUTCOME_UNKNOWN:
        detail = "the owner did not answer in time"
        return Unavailable(UnavailableCode.SHARD_UNAVAILABLE, detail, answer.retry_after_s)
    return answer


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def body_of(problem: Problem) -> bytes:
    """The JSON of a problem."""
    status, title = _STATUS_AND_TITLE[problem.code]
    sentences = [_printable(failure.sentence) for failure in problem.errors]
    errors = [
        {"pointer": _printable(failure.pointer), "code": failure.code.value, "detail": _printable(failure.detail)}
        for failure in problem.errors
    ]
    fields: dict[str, object] = {
        "type": f"urn:threadcluster:problem:{problem.code}",
        "title": title,
        "status": status,
        "detail": _printable(problem.detail),
        "code": problem.code.value,
        "error_messages": sentences or [_printable(problem.detail)],
        "errors": errors,
    }
    if problem.thread_id is not None:
        fields["threadId"] = problem.thread_id
    return msgspec.json.encode(fields)
