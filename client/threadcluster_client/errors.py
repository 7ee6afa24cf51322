"""Everything that a call can end with, and how an answer becomes an error, without I/O.

A refusal is a `ProblemError`: its class is chosen by the problem's ``code``, for a code that this release does not know by
the status.  So ``except Conflict`` goes on to work when the server's codes grow.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple


class ClientError(Exception):
    """The root of this client's errors."""

    idempotency_key: str | None = None
    """Of a command: the same call with this key is stored at most once, however often it is made."""
    attempts: int = 0
    outcome_unknown: bool = False
    """Whether the command may have been stored: an attempt was lost, and no answer since says what became of it."""
    retry_after_s: float | None = None


class ClientClosed(ClientError):
    """The client was closed."""


class WrongEventLoop(ClientError):
    """The client belongs to another event loop."""


class ConnectionFailed(ClientError):
    """No connection, or one that ended or was silent before the whole answer was there."""


class DeadlineExceeded(ClientError):
    """The call's deadline is over; ``__cause__`` is the last attempt's error."""


class UnexpectedAnswer(ClientError):
    """An answer that is not of this API: perhaps of a proxy."""


class FieldError(NamedTuple):
    """One failure of validation."""

    pointer: str
    code: str
    detail: str


class ProblemError(ClientError):
    """An answer that is not a success."""

    status_of_class: ClassVar[int | None] = None
    code_of_class: ClassVar[str | None] = None

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.document = document
        """The whole problem, with fields that this release does not know."""
        self.code = _text(document, "code")
        self.title = _text(document, "title")
        self.detail = _text(document, "detail")
        self.error_messages = tuple(each for each in _list(document, "error_messages") if isinstance(each, str))
        self.errors = tuple(
            FieldError(_text(each, "pointer"), _text(each, "code"), _text(each, "detail"))
            for each in _list(document, "errors")
            if isinstance(each, dict)
        )
        self.thread_id = _text(document, "threadId") or None
        """Of a create whose outcome is unknown, and of the end of one thread in an account's stream."""
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.code or 'without a code'}: {self.detail or self.title or 'no detail'}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.document, self.retry_after_s), self.__dict__


class InvalidRequest(ProblemError):
    """The request is not right; ``errors`` and ``error_messages`` list every failure."""

    status_of_class = 400


class Forbidden(ProblemError):
    """The account may read the thread, but has not the right."""

    status_of_class = 403


class NotAdministrator(Forbidden):
    """Only an administrator may do this."""

    code_of_class = "not-administrator"


class NotSender(Forbidden):
    """Only the sender may remove a message."""

    code_of_class = "not-sender"


class NotFound(ProblemError):
    """No such path or thing."""

    status_of_class = 404


class ThreadNotFound(NotFound):
    """No such thread, or the account may not read it: the answers are the same."""

    code_of_class = "thread-not-found"


class Conflict(ProblemError):
    """The thread's present state refuses the command."""

    status_of_class = 409


class AlreadyExists(Conflict):
    """Another thread has this id."""

    code_of_class = "already-exists"


class ParentNotReadable(Conflict):
    """The parent thread cannot be read."""

    code_of_class = "parent-not-readable"


class LastAdministrator(Conflict):
    """A thread keeps at least one administrator."""

    code_of_class = "last-administrator"


class AdministratorLimit(Conflict):
    """The thread has too many administrators."""

    code_of_class = "administrator-limit"


class MemberLimit(Conflict):
    """The thread has too many members."""

    code_of_class = "member-limit"


class MessageLimit(Conflict):
    """The thread has too many messages."""

    code_of_class = "message-limit"


class MessageIdTaken(Conflict):
    """The message id is taken."""

    code_of_class = "message-id-taken"


class ReplyNotLive(Conflict):
    """The message replied to is not there."""

    code_of_class = "reply-not-live"


class MessageNotFound(Conflict):
    """The thread has and had no such message."""

    code_of_class = "message-not-found"


class IdempotencyKeyReused(Conflict):
    """The idempotency key was used for another command."""

    code_of_class = "idempotency-key-reused"


class Gone(ProblemError):
    """The thing is gone for good."""

    status_of_class = 410


class ThreadDestroyed(Gone):
    """The thread was destroyed."""

    code_of_class = "thread-destroyed"


class RateLimited(ProblemError):
    """Too many requests; ``retry_after_s`` says when to come again."""

    status_of_class = 429


class ServerError(ProblemError):
    """The server failed."""

    status_of_class = 500


class Unavailable(ServerError):
    """Not now: nothing was stored, but for `OutcomeUnknown`."""

    status_of_class = 503


class ShardUnavailable(Unavailable):
    """The thread cannot be reached right now."""

    code_of_class = "shard-unavailable"


class Overloaded(Unavailable):
    """The worker is overloaded."""

    code_of_class = "overloaded"


class TooManyStreams(Unavailable):
    """As many streams are open as may be."""

    code_of_class = "too-many-streams"


class Leaving(Unavailable):
    """The worker is leaving."""

    code_of_class = "leaving"


class ThreadPoisoned(Unavailable):
    """The thread's history cannot be read by this release."""

    code_of_class = "thread-poisoned"


class OutcomeUnknown(Unavailable):
    """Whether the command was stored is not known: made again with the same idempotency key, it is stored once."""

    code_of_class = "outcome-unknown"


class ReadModelBehind(ServerError):
    """The answering source has not reached ``min_sequence_nr`` in time."""

    status_of_class = 504
    code_of_class = "read-model-behind"


def _subclasses(root: type[ProblemError]) -> list[type[ProblemError]]:
    return [root, *(each for child in root.__subclasses__() for each in _subclasses(child))]


_OF_CODE: Final = {each.code_of_class: each for each in _subclasses(ProblemError) if each.code_of_class}
_OF_STATUS: Final = {
    each.__dict__["status_of_class"]: each
    for each in _subclasses(ProblemError)
    if "status_of_class" in each.__dict__ and not each.code_of_class
}
_RETRIED: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses of the server, or of a proxy before it, that another attempt may mend."""


def problem_error(status: int, body: bytes | str, retry_after_s: float | None = None) -> ProblemError:
    """The error of an answer that is not a success, whatever its body is."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    kind = _OF_CODE.get(_text(document, "code")) or _OF_STATUS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else InvalidRequest if status >= 400 else ProblemError
    return kind(status, document, retry_after_s)


def is_retryable(error: ClientError) -> bool:
    """Whether the same call may succeed when it is made again soon."""
    if isinstance(error, ProblemError):
        # The server waited for `min_sequence_nr` already.
        return error.status in _RETRIED and not isinstance(error, ReadModelBehind)
    return isinstance(error, ConnectionFailed)


def leaves_outcome_open(error: ProblemError) -> bool | None:
    """Whether a command that was answered so may have been stored; None where only this attempt was surely not.

    False says that no earlier attempt of the same command was stored either: a recognised retry gets its first answer.
    """
    if error.status < 500 and error.status not in _RETRIED:
        return False
    stored_nothing = error.status == 503 and error.code and not isinstance(error, OutcomeUnknown)
    return None if stored_nothing or error.status == 429 else True


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []
