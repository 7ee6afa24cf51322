"""Answer schemas: the shapes of `shard_worker.gateway.public.responses` and of problems, as the OpenAPI document shows them.

A test holds every answer of the real server against these.
"""

from typing import Any, Final

from shard_worker.gateway.http.problems import OF_MANAGEMENT, ProblemCode

Schema = dict[str, Any]  # Any: JSON Schema

_ULID: Final[Schema] = {"type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"}
_ULID_OR_NULL: Final[Schema] = {"type": ["string", "null"], "pattern": _ULID["pattern"]}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_INSTANT: Final[Schema] = {"type": "integer", "minimum": 0, "description": "Epoch milliseconds, the server's clock."}
_SEQUENCE_NR: Final[Schema] = {"type": "integer", "minimum": 1, "description": "The thread's sequence number."}
_POSITION: Final[Schema] = {
    "type": "string",
    "pattern": "^(0|[1-9][0-9]*)([.][1-9][0-9]*)?$",
    "description": "The thread's newest event as `/events` takes it: a stream after it has all that follows.",
}
_ACCOUNT_POSITION: Final[Schema] = {
    "type": "string",
    "maxLength": 64,
    "description": "Where the account's `/events` goes on after this page; of a walk over pages, that of the first counts.",
}
_NO_ERRORS: Final[Schema] = {"type": "array", "maxItems": 0, "description": "Always empty here."}
_NEXT_CURSOR: Final[Schema] = {"type": ["string", "null"], "description": "The next page's `cursor`; null at the end."}


def _object(**properties: Schema) -> Schema:
    """An object that has all of these fields; fields may be added to ``/v1`` later, so more are not forbidden."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _answer(**properties: Schema) -> Schema:
    return _object(error_messages=_NO_ERRORS, **properties)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_THREAD_FIELDS: Final[dict[str, Schema]] = {
    "id": _ULID,
    "creatorId": _ULID,
    "parentThreadId": _ULID_OR_NULL,
    "title": _TEXT_OR_NULL,
    "remarks": _TEXT_OR_NULL,
    "createdAt": _INSTANT,
    "updatedAt": _INSTANT,
    "sequenceNr": _SEQUENCE_NR,
}
_UNREAD: Final[Schema] = {
    "type": "integer",
    "minimum": 0,
    "maximum": 100,
    "description": "Live messages of others after the account's read marker, without one all; counted to 100.",
}
_POISONED: Final[Schema] = {
    **_list_of(_ULID),
    "description": "Threads of the account that are left out because this release cannot read their history.",
}

ANSWERS: Final[dict[str, Schema]] = {
    "ThreadCreatedAnswer": _answer(threadId=_ULID, thread_id=_ULID, sequenceNr=_SEQUENCE_NR, position=_POSITION),
    "ThreadChangedAnswer": _answer(threadId=_ULID, sequenceNr=_SEQUENCE_NR, position=_POSITION),
    "MessagesChangedAnswer": _answer(messageIds=_list_of(_ULID), sequenceNr=_SEQUENCE_NR, position=_POSITION),
    "Thread": _object(**_THREAD_FIELDS, position=_POSITION),
    "ListedThread": _object(**_THREAD_FIELDS, unreadCount=_UNREAD),
    "Message": _object(
        id=_ULID,
        threadId=_ULID,
        senderId=_ULID,
        type={"const": "text"},
        body=_TEXT_OR_NULL,
        replyMessageId=_ULID_OR_NULL,
        toAccountIds=_list_of(_ULID),
        createdAt=_INSTANT,
        updatedAt=_INSTANT,
        sequenceNr=_SEQUENCE_NR,
    ),
    "ThreadAnswer": _answer(result=_ref("Thread")),
    "AccountIdsAnswer": _answer(
        results=_list_of(_ULID), sequenceNr=_SEQUENCE_NR, position=_POSITION, nextCursor=_NEXT_CURSOR
    ),
    "ReadMarkerAnswer": _answer(threadId=_ULID, messageId=_ULID),
    "ThreadsAnswer": _answer(
        results=_list_of(_ref("ListedThread")),
        poisoned=_POISONED,
        position=_ACCOUNT_POSITION,
        nextCursor=_NEXT_CURSOR,
    ),
    "MentionsAnswer": _answer(result=_list_of(_ref("Message")), poisoned=_POISONED, nextCursor=_NEXT_CURSOR),
    "MessagesAnswer": _answer(
        result=_list_of(_ref("Message")), sequenceNr=_SEQUENCE_NR, position=_POSITION, nextCursor=_NEXT_CURSOR
    ),
}

PROBLEM: Final[Schema] = {
    **_object(
        type={"type": "string", "format": "uri"},
        title={"type": "string"},
        status={"type": "integer"},
        detail={"type": "string"},
        code={"enum": [code.value for code in ProblemCode if code not in OF_MANAGEMENT]},
        error_messages={"type": "array", "items": {"type": "string"}, "minItems": 1},
    ),
    "description": "RFC 9457. `code` is a closed list; `error_messages` has every failure that was found.",
}
PROBLEM["properties"]["threadId"] = {**_ULID, "description": "Of a create whose outcome is unknown."}
