"""Answer schemas: the shapes of `shard_worker.gateway.public.responses` and of problems, as the OpenAPI document shows them.

A test holds every answer of the real server against these.  A set of values that may grow is an open string with its known
values in ``x-extensible-enum``: a generated client of today must read the answers of tomorrow.
"""

from collections.abc import Mapping
from typing import Any, Final

from shard_worker.gateway.http.failures import FailureCode
from shard_worker.gateway.http.problems import OF_MANAGEMENT, ProblemCode, title_of
from shard_worker.gateway.public import examples

Schema = dict[str, Any]  # Any: JSON Schema

_ULID_PATTERN: Final = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"


def _ulid(description: str, example: str) -> Schema:
    return {"type": "string", "pattern": _ULID_PATTERN, "description": description, "examples": [example]}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _text(description: str, example: str) -> Schema:
    return {"type": "string", "description": description, "examples": [example]}


def _instant(description: str, example: int) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description, "examples": [example]}


def _list_of(schema: Schema, description: str) -> Schema:
    return {"type": "array", "items": schema, "description": description}


def _open_enum(values: Mapping[str, str], description: str, example: str) -> Schema:
    """A string whose known values are listed, each with its meaning, and which may have others in later releases."""
    listed = "\n".join(f"- `{value}`: {meaning}" for value, meaning in values.items())
    return {
        "type": "string",
        "x-extensible-enum": list(values),
        "description": f"{description} A later release may have other values. Known are:\n\n{listed}",
        "examples": [example],
    }


def _object(description: str, **properties: Schema) -> Schema:
    """An object that has all of these fields; fields may be added to ``/v1`` later, so more are not forbidden."""
    return {"type": "object", "description": description, "required": list(properties), "properties": properties}


_NO_ERRORS: Final[Schema] = {
    **_list_of(
        {"type": "string", "examples": [""]}, "Always empty here. Kept for clients of the system before this one."
    ),
    "maxItems": 0,
    "deprecated": True,
    "examples": [[]],
}


def _answer(description: str, **properties: Schema) -> Schema:
    return _object(description, error_messages=_NO_ERRORS, **properties)


def _ref(name: str, description: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}", "description": description}


_SEQUENCE_NR: Final[Schema] = {
    "type": "integer",
    "minimum": 1,
    "description": "The thread's sequence number: that of its newest event. The event of its creation is 1.",
    "examples": [7],
}
_MESSAGE_SEQUENCE_NR: Final[Schema] = {
    **_SEQUENCE_NR,
    "description": "The sequence number of the event that added the message.",
}
_POSITION: Final[Schema] = {
    "type": "string",
    "pattern": "^(0|[1-9][0-9]*)([.][1-9][0-9]*)?$",
    "description": "The thread's newest event as `/events` takes it: a stream after it has all that follows.",
    "examples": [examples.POSITION],
}
_ACCOUNT_POSITION: Final[Schema] = {
    "type": "string",
    "maxLength": 64,
    "description": "Where the account's `/events` goes on after this page; of a walk over pages, that of the first counts.",
    "examples": [examples.ACCOUNT_POSITION],
}
_NEXT_CURSOR: Final[Schema] = {
    "type": ["string", "null"],
    "description": "The next page's `cursor`; null at the end.",
    "examples": [examples.CURSOR, None],
}
_THREAD_ID: Final = _ulid("The thread.", examples.THREAD)
_ACCOUNT: Final = _ulid("An account.", examples.OTHER_ACCOUNT)
_MESSAGE: Final = _ulid("A message.", examples.MESSAGE)

_THREAD_FIELDS: Final[dict[str, Schema]] = {
    "id": _THREAD_ID,
    "creatorId": _ulid("The account that created the thread; having created it gives no right.", examples.ACCOUNT),
    "parentThreadId": _or_null(_ulid("The thread below which this one was created.", examples.PARENT_THREAD)),
    "title": _or_null(_text("The title.", examples.TITLE)),
    "remarks": _or_null(_text("Remarks on the thread.", examples.REMARKS)),
    "createdAt": _instant(
        "When the thread was created, in epoch milliseconds of the server's clock.", examples.CREATED_AT
    ),
    "updatedAt": _instant("When the thread was changed last, likewise.", examples.UPDATED_AT),
    "sequenceNr": _SEQUENCE_NR,
}
_UNREAD: Final[Schema] = {
    "type": "integer",
    "minimum": 0,
    "maximum": 100,
    "description": "Live messages of others after the account's read marker, without one all; counted to 100.",
    "examples": [3],
}
_POISONED: Final[Schema] = {
    **_list_of(_THREAD_ID, "Threads of the account that are left out because this release cannot read their history."),
    "examples": [[]],
}
_CHANGED: Final = {"sequenceNr": _SEQUENCE_NR, "position": _POSITION}

ANSWERS: Final[dict[str, Schema]] = {
    "ThreadCreatedAnswer": _answer(
        "A thread was created, or was by the first of these requests.",
        threadId=_THREAD_ID,
        thread_id={**_ulid("The same as `threadId`.", examples.THREAD), "deprecated": True},
        **_CHANGED,
    ),
    "ThreadChangedAnswer": _answer("A thread was changed, or is as asked already.", threadId=_THREAD_ID, **_CHANGED),
    "MessagesChangedAnswer": _answer(
        "Messages were added or removed.",
        messageIds=_list_of(_MESSAGE, "Those that were added, in the order given, or those that were really removed."),
        **_CHANGED,
    ),
    "Thread": _object("A thread.", **_THREAD_FIELDS, position=_POSITION),
    "ListedThread": _object("A thread in the list of an account.", **_THREAD_FIELDS, unreadCount=_UNREAD),
    "Message": _object(
        "A message.",
        id=_ulid("The message.", examples.MESSAGE),
        threadId=_THREAD_ID,
        senderId=_ulid("The account that posted it.", examples.ACCOUNT),
        type=_open_enum({"text": "A text"}, "The kind of the message.", "text"),
        body=_or_null(_text("The text.", examples.TEXT)),
        replyMessageId=_or_null(_ulid("The message that this one replies to.", examples.OTHER_MESSAGE)),
        toAccountIds=_list_of(_ACCOUNT, "The accounts that the message names, each once, in the order given."),
        createdAt=_instant("When it was posted, in epoch milliseconds of the server's clock.", examples.UPDATED_AT),
        updatedAt=_instant("The same as `createdAt`: a message does not change.", examples.UPDATED_AT),
        sequenceNr=_MESSAGE_SEQUENCE_NR,
    ),
    "ThreadAnswer": _answer("One thread.", result=_ref("Thread", "The thread.")),
    "AccountIdsAnswer": _answer(
        "A page of accounts.",
        results=_list_of(_ACCOUNT, "The accounts, in the order of their ids."),
        **_CHANGED,
        nextCursor=_NEXT_CURSOR,
    ),
    "ReadMarkerAnswer": _answer(
        "The account's read marker is at this message, or was beyond the one given.",
        threadId=_THREAD_ID,
        messageId=_ulid("The message at which the marker is now.", examples.MESSAGE),
    ),
    "ThreadsAnswer": _answer(
        "A page of the threads of an account.",
        results=_list_of(_ref("ListedThread", "One thread."), "The threads, those with the newest activity first."),
        poisoned=_POISONED,
        position=_ACCOUNT_POSITION,
        nextCursor=_NEXT_CURSOR,
    ),
    "MentionsAnswer": _answer(
        "A page of messages that name an account.",
        result=_list_of(_ref("Message", "One message."), "The messages, newest first."),
        poisoned=_POISONED,
        nextCursor=_NEXT_CURSOR,
    ),
    "MessagesAnswer": _answer(
        "A page of a thread's messages.",
        result=_list_of(_ref("Message", "One message."), "The messages, oldest first."),
        **_CHANGED,
        nextCursor=_NEXT_CURSOR,
    ),
}


_CODE: Final = _open_enum(
    {code.value: title_of(code) for code in ProblemCode if code not in OF_MANAGEMENT},
    "The reason, for programs; one that you do not know is known by the status.",
    ProblemCode.VALIDATION_FAILED.value,
)
_FAILURES: Final = {
    FailureCode.MALFORMED_JSON: "The body is no JSON",
    FailureCode.REQUIRED: "It is missing",
    FailureCode.UNKNOWN: "The request has no such field or parameter",
    FailureCode.DUPLICATE: "It was given twice",
    FailureCode.EXCLUDED: "It must be left out beside another one that was given",
    FailureCode.WRONG_TYPE: "It has the wrong JSON type",
    FailureCode.WRONG_FORMAT: "It has not the form that it must have, such as that of a ULID",
    FailureCode.WRONG_LENGTH: "It is too short or too long",
    FailureCode.OUT_OF_RANGE: "The number is too small or too great",
    FailureCode.FORBIDDEN_CHARACTERS: "It has characters that no text may have",
    FailureCode.RESERVED: "The id is one of those that only the server chooses",
    FailureCode.FOREIGN: "The cursor or position was not given for this query, thread or account",
    FailureCode.NOT_FOUND: "The thread has and had no such message",
    FailureCode.TOO_COMPLEX: "It has more structure than any valid request",
    FailureCode.INVALID: "Another fault, which the detail names",
}

PROBLEM_ERROR: Final[Schema] = _object(
    "One failure of a request that is not valid.",
    pointer=_text(
        "The part that is wrong: a JSON pointer into the body, empty for the whole body, or the name of a query parameter or "
        "header field; `id` is the id in the path, `query` the query string as a whole. A missing field's is where it "
        "should be. Names are cut at 100 characters.",
        "/messages/0/text",
    ),
    code=_open_enum(
        {code.value: meaning for code, meaning in _FAILURES.items()},
        "The fault, for programs.",
        FailureCode.WRONG_LENGTH.value,
    ),
    detail=_text("The same as a sentence.", "must have 1 to 4000 characters"),
)

PROBLEM: Final[Schema] = _object(
    "Every answer that is not a 2xx (RFC 9457).",
    type={
        "type": "string",
        "format": "uri",
        "description": "A URN that ends with the code.",
        "examples": ["urn:threadcluster:problem:validation-failed"],
    },
    title=_text("The code as a sentence.", title_of(ProblemCode.VALIDATION_FAILED)),
    status={
        "type": "integer",
        "minimum": 400,
        "maximum": 599,
        "description": "The status of the answer.",
        "examples": [400],
    },
    detail=_text("The reason this time.", "messages[0].text: must have 1 to 4000 characters"),
    code=_CODE,
    error_messages={
        **_list_of(
            {"type": "string", "examples": ["messages[0].text: must have 1 to 4000 characters"]},
            "Every failure that was found, as a sentence that names its place: the first 1,000. Without any, the detail.",
        ),
        "minItems": 1,
    },
    errors=_list_of(
        {"$ref": "#/components/schemas/ProblemError", "description": "One failure."},
        "The same failures for programs, in the same order; empty where nothing failed validation.",
    ),
)
PROBLEM["properties"]["threadId"] = _ulid(
    "Of a create whose outcome is unknown: the id that it has if it was stored.", examples.THREAD
)
