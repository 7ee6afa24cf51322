"""The meaning of an error answer of the API server, in one table: pure.

The number of an answer alone misleads.  A 500 is a webhook that is down, a field that the schema does not have, or a broken
server; a 404 is a missing object, a missing kind or a missing namespace; a 403 is a missing right, a quota, or an admission
rule; and an admission webhook may refuse with any number that it likes.  So the table reads the message first, and the reason
and the number only where no message is known.
"""

import re
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Final


class Answer(Enum):
    """The meaning of an error answer."""

    INVALID = "invalid"
    """The object is wrong; the message names the field.  The same object is refused for good."""
    TOO_LARGE = "too large"
    """The object is larger than the API server or its storage takes."""
    NOT_PERMITTED = "not permitted"
    """The client lacks the right."""
    QUOTA = "quota"
    """A quota of the namespace is used up, or demands a field that the object does not have."""
    DENIED = "denied"
    """An admission rule refuses the object: a webhook, a policy, or a plugin of the API server."""
    NAMESPACE_ENDING = "namespace ending"
    """The namespace is being deleted, and takes no new object."""
    KIND_MISSING = "kind missing"
    """The API server does not serve this kind: its CustomResourceDefinition is not installed."""
    NAMESPACE_MISSING = "namespace missing"
    MISSING = "missing"
    """There is no such object."""
    EXISTS = "exists"
    """There is an object of this name already."""
    CONFLICT = "conflict"
    """The object is another, or another version, than the client has seen."""
    NO_DRY_RUN = "no dry run"
    """An admission webhook does not support a dry run; the real request may be accepted."""
    ADMISSION_DOWN = "admission down"
    """An admission webhook does not answer, and must."""
    THROTTLED = "throttled"
    """The API server takes no more requests of this client, or for this kind, for the moment."""
    UNKNOWN_CLIENT = "unknown client"
    """The credentials are not accepted."""
    FAILING = "failing"
    """The API server, or its storage, has a fault of its own."""
    AWAY = "away"
    """Nothing answered."""


_BY_MESSAGE: Final[tuple[tuple[re.Pattern[str], Answer], ...]] = tuple(
    (re.compile(pattern), answer)
    for pattern, answer in (
        (r"does not support dry run", Answer.NO_DRY_RUN),
        # A webhook's own text follows these words, so they come before all that it might quote.
        (r"admission webhook \".*\" denied the request", Answer.DENIED),
        (r"failed calling webhook", Answer.ADMISSION_DOWN),
        (r"[Pp]olicy ['\"].*['\"] (with binding '.*' )?denied request", Answer.DENIED),
        (r"violates PodSecurity", Answer.DENIED),
        (r"exceeded quota|failed quota|must specify (limits|requests)\.", Answer.QUOTA),
        (r"because it is being terminated", Answer.NAMESPACE_ENDING),
        (r"is forbidden: User \"|cannot (get|list|watch|create|patch|update|delete) resource", Answer.NOT_PERMITTED),
        # Of a server-side apply, whose number is 500; and of what fieldValidation=Strict finds.
        (r"failed to create typed (patch|live) object|failed to convert .*to proper version", Answer.INVALID),
        (r"strict decoding error|field not declared in schema|unknown field \"", Answer.INVALID),
        (r"[Rr]equest entity too large|request is too large|larger than max", Answer.TOO_LARGE),
        (r"could not find the requested resource|404 page not found|no matches for kind", Answer.KIND_MISSING),
        (r"^namespaces \".*\" not found", Answer.NAMESPACE_MISSING),
        (r"already exists", Answer.EXISTS),
        # Also of the quota that is to be charged: the object itself is not in question then.
        (r"Operation cannot be fulfilled on|object has been modified|[Pp]recondition failed", Answer.CONFLICT),
        (r"storage is \(re\)initializing|[Tt]oo many requests", Answer.THROTTLED),
    )
)
"""The first pattern that is found in a message decides."""

_BY_REASON: Final = {
    "NotFound": Answer.MISSING,
    "AlreadyExists": Answer.EXISTS,
    "Conflict": Answer.CONFLICT,
    "Forbidden": Answer.DENIED,
    "Invalid": Answer.INVALID,
    "BadRequest": Answer.INVALID,
    "RequestEntityTooLarge": Answer.TOO_LARGE,
    "TooManyRequests": Answer.THROTTLED,
    "Unauthorized": Answer.UNKNOWN_CLIENT,
}
_BY_STATUS: Final[Mapping[int, Answer]] = {
    HTTPStatus.BAD_REQUEST: Answer.INVALID,
    HTTPStatus.UNAUTHORIZED: Answer.UNKNOWN_CLIENT,
    HTTPStatus.FORBIDDEN: Answer.NOT_PERMITTED,
    HTTPStatus.NOT_FOUND: Answer.MISSING,
    HTTPStatus.CONFLICT: Answer.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Answer.TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY: Answer.INVALID,
    HTTPStatus.TOO_MANY_REQUESTS: Answer.THROTTLED,
}


def meaning_of(status: int, reason: str, message: str) -> Answer:
    """The meaning of an error answer, from its HTTP status, its ``reason`` and its message; status 0: nothing answered."""
    if status == 0:
        return Answer.AWAY
    found = _from_message(message) or _BY_REASON.get(reason) or _BY_STATUS.get(status)
    if found is not None:
        return found
    return Answer.FAILING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Answer.INVALID


def meaning_of_report(message: str) -> Answer | None:
    """The meaning of an error that a controller quotes in an Event, without its number; None when it is not known."""
    found = _from_message(message)
    if found is None and "forbidden" in message:
        return Answer.DENIED
    if found is None and re.search(r"is invalid: |Invalid value", message):
        return Answer.INVALID
    return found


def _from_message(message: str) -> Answer | None:
    return next((answer for pattern, answer in _BY_MESSAGE if pattern.search(message)), None)
