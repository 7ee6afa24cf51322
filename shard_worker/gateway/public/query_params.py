"""Query parameters, parsed strictly.

A parameter that the route does not know, one given twice, one out of range: each is a failure, nothing is clamped or
overlooked.  `PARAMETERS` says the same to the OpenAPI document.
"""

import re
from typing import Any, Final
from urllib.parse import parse_qsl

from msgspec import Struct

from shard_worker.domain.ids import AccountId, MessageId, canonical
from shard_worker.domain.message_window import Side
from shard_worker.gateway.http.failures import (
    ULID_FORM,
    Failure,
    FailureCode,
    given_twice,
    of_parameter,
    unknown_parameter,
)
from shard_worker.gateway.http.query_string import too_many_parameters
from shard_worker.gateway.public import examples
from shard_worker.gateway.public.request_models import ULID_PATTERN
from shard_worker.streams.position import ThreadPosition, read_position

GREATEST_NUMBER: Final = 2**63 - 1
GREATEST_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class Parameter(Struct, frozen=True):
    """One query parameter as the OpenAPI document shows it."""

    name: str
    description: str
    example: str | int
    schema: dict[str, Any]  # Any: JSON Schema
    required: bool = False


ACCOUNT_ID: Final = Parameter(
    "account_id",
    "The caller. Trusted as it is.",
    examples.ACCOUNT,
    {"type": "string", "pattern": ULID_PATTERN},
    required=True,
)
MIN_SEQUENCE_NR: Final = Parameter(
    "min_sequence_nr",
    "Answer from a state of the thread at least this new: read your own writes. Without it, from the state there is.",
    7,
    {"type": "integer", "minimum": 0, "maximum": GREATEST_NUMBER},
)
LIMIT: Final = Parameter(
    "limit",
    f"The most items of a page; {DEFAULT_LIMIT} where it is left out.",
    DEFAULT_LIMIT,
    {"type": "integer", "minimum": 1, "maximum": GREATEST_LIMIT},
)
OFFSET: Final = Parameter(
    "offset",
    "How many items to pass over; none where it is left out. Not together with `cursor`.",
    100,
    {"type": "integer", "minimum": 0, "maximum": GREATEST_NUMBER},
)
CURSOR: Final = Parameter(
    "cursor",
    "The `nextCursor` of the page before, of this query, thread and account; not together with `offset`. Without it, the "
    "first page.",
    examples.CURSOR,
    {"type": "string", "minLength": 1},
)


def _anchor(side: Side, which: str) -> Parameter:
    alone = "not together with another of `before`, `after` and `around`, nor with `offset` or `cursor`"
    return Parameter(
        side.value,
        f"A message of the thread: {which}; {alone}.",
        examples.MESSAGE,
        {"type": "string", "pattern": ULID_PATTERN},
    )


ANCHORS: Final = (
    _anchor(Side.BEFORE, "the page ends next before it, and `nextCursor` goes on backwards"),
    _anchor(Side.AFTER, "the page begins next after it"),
    _anchor(Side.AROUND, "the page holds it and messages of both sides"),
)
_STARTS: Final = ("offset", *Side, "cursor")
"""Parameters that say where a page begins: at most one of them is given."""
_POSITION: Final = {"type": "string", "pattern": "^(|(0|[1-9][0-9]{0,18})(\\.(0|[1-9][0-9]{0,18}))?)$"}
LAST_EVENT_ID: Final = Parameter(
    "lastEventId",
    "The position to go on after, for clients that set no header; beats `after`, and the header `Last-Event-ID` beats it.",
    examples.POSITION,
    _POSITION,
)
AFTER: Final = Parameter(
    "after",
    "The position to go on after, as an answer about the thread has it; 0 is before the first event. Without one the stream "
    "begins now.",
    examples.POSITION,
    _POSITION,
)
_BY_ITSELF: Final = "The position to go on after: the last `id` that came. A browser's `EventSource` sends it by itself. Beats the parameters."
LAST_EVENT_ID_FIELD: Final = Parameter("Last-Event-ID", _BY_ITSELF, examples.POSITION, _POSITION)
OF_A_STREAM: Final = (ACCOUNT_ID, LAST_EVENT_ID, AFTER)
_POSITIONS: Final = (AFTER.name, LAST_EVENT_ID.name)
"""The parameters of a stream's position; an empty one counts as absent, and the last one given counts."""
_ACCOUNT_POSITION: Final = {"type": "string", "maxLength": 64}
LAST_EVENT_ID_FIELD_OF_AN_ACCOUNT: Final = Parameter(
    "Last-Event-ID", _BY_ITSELF, examples.ACCOUNT_POSITION, _ACCOUNT_POSITION
)
OF_AN_ACCOUNT_STREAM: Final = (
    Parameter(
        "lastEventId",
        "The position to go on after, as a stream or a list of this account gave it; beats `after`, and the header"
        " `Last-Event-ID` beats it.",
        examples.ACCOUNT_POSITION,
        _ACCOUNT_POSITION,
    ),
    Parameter(
        "after",
        "The position to go on after, as the list of the account's threads has it; without one the stream begins now.",
        examples.ACCOUNT_POSITION,
        _ACCOUNT_POSITION,
    ),
)
OF_A_THREAD: Final = (ACCOUNT_ID, MIN_SEQUENCE_NR)
OF_A_PAGE: Final = (ACCOUNT_ID, LIMIT, OFFSET, CURSOR, MIN_SEQUENCE_NR)
OF_MESSAGES: Final = (ACCOUNT_ID, LIMIT, OFFSET, CURSOR, *ANCHORS, MIN_SEQUENCE_NR)
OF_A_LIST: Final = (ACCOUNT_ID, LIMIT, OFFSET, CURSOR)
OF_AN_ACCOUNT: Final = (LIMIT, OFFSET, CURSOR)
NO_POSITION: Final = "must be a position of this thread's stream: sequenceNr.epoch, or sequenceNr alone"
NO_ACCOUNT_POSITION: Final = "must be a position that a stream or a list of this account gave"
NO_ACCOUNT: Final = AccountId("")
"""Of a query whose path names the account."""


class QueryValues(Struct, frozen=True, kw_only=True, gc=False):
    """The parameters of one query; ``cursor`` is not yet opened."""

    account_id: AccountId
    min_sequence_nr: int = 0
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    cursor: str | None = None
    anchor: tuple[Side, MessageId] | None = None
    position: ThreadPosition | None = None
    """Where a thread's stream goes on; the header may name another."""
    account_positions: tuple[tuple[str, str], ...] = ()
    """Positions of an account's stream as given, by parameter, none of them empty; the last one counts."""


def _number_code(text: str) -> FailureCode:
    return FailureCode.OUT_OF_RANGE if text.isascii() and text.isdecimal() else FailureCode.WRONG_FORMAT


def _number(fields: dict[str, str], name: str, default: int, least: int, most: int, failures: list[Failure]) -> int:
    text = fields.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) and least <= (number := int(text)) <= most:
        return number
    failures.append(of_parameter(name, _number_code(text), f"must be an integer from {least} to {most}"))
    return default


def _read_anchor(fields: dict[str, str], failures: list[Failure]) -> tuple[Side, MessageId] | None:
    """The message that a page is asked for by; a failure for each place but one where a page is to begin."""
    found: tuple[Side, MessageId] | None = None
    for side in Side:
        given = fields.get(side)
        if given is None:
            continue
        message_id = canonical(given)
        if message_id is None:
            failures.append(of_parameter(side.value, FailureCode.WRONG_FORMAT, ULID_FORM))
        elif found is None:
            found = side, MessageId(message_id)
    starts = [name for name in _STARTS if name in fields]
    detail = f"must be left out when {starts[0]} is given" if starts else ""
    failures += [of_parameter(name, FailureCode.EXCLUDED, detail) for name in starts[1:]]
    return found


def _read_position(positions: list[tuple[str, str]], failures: list[Failure]) -> ThreadPosition | None:
    """Where a thread's stream is to go on."""
    position = None
    for name, given in positions:
        position = read_position(given)
        if position is None:
            failures.append(of_parameter(name, FailureCode.WRONG_FORMAT, NO_POSITION))
    return position


def unknown_parameters(query: str) -> list[Failure]:
    """A failure for each parameter of a route that has none."""
    if (failure := too_many_parameters(query)) is not None:
        return [failure]
    return _fields(query, frozenset())[1] if query else []


def _fields(query: str, known: frozenset[str]) -> tuple[dict[str, str], list[Failure]]:
    failures: list[Failure] = []
    fields: dict[str, str] = {}
    # Bytes that are not UTF-8 become U+FFFD, which no name and no value may have.
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        if name not in known:
            failures.append(unknown_parameter(name))
        elif name in fields:
            failures.append(given_twice(name))
        else:
            fields[name] = value
    return fields, failures


def read_parameters(query: str, parameters: tuple[Parameter, ...]) -> tuple[QueryValues | None, list[Failure]]:
    """The values of a raw query string, or all that is wrong with it."""
    if (failure := too_many_parameters(query)) is not None:
        return None, [failure]
    fields, failures = _fields(query, frozenset(parameter.name for parameter in parameters))
    given = fields.get("account_id")
    account_id = canonical(given) if given is not None else None
    if ACCOUNT_ID not in parameters:
        account_id = NO_ACCOUNT
    elif given is None:
        failures.append(of_parameter(ACCOUNT_ID.name, FailureCode.REQUIRED, "is required"))
    elif account_id is None:
        failures.append(of_parameter(ACCOUNT_ID.name, FailureCode.WRONG_FORMAT, ULID_FORM))
    minimum = _number(fields, "min_sequence_nr", 0, 0, GREATEST_NUMBER, failures)
    limit = _number(fields, "limit", DEFAULT_LIMIT, 1, GREATEST_LIMIT, failures)
    offset = _number(fields, "offset", 0, 0, GREATEST_NUMBER, failures)
    # `after` is a message of a page, and a position of a stream.
    of_a_stream = LAST_EVENT_ID.name in {parameter.name for parameter in parameters}
    anchor = None if of_a_stream else _read_anchor(fields, failures)
    positions = [(name, fields[name]) for name in _POSITIONS if fields.get(name)] if of_a_stream else []
    position = _read_position(positions, failures) if ACCOUNT_ID in parameters else None
    if failures or account_id is None:
        return None, failures
    values = QueryValues(
        account_id=AccountId(account_id),
        min_sequence_nr=minimum,
        limit=limit,
        offset=offset,
        cursor=fields.get("cursor"),
        anchor=anchor,
        position=position,
        account_positions=tuple(positions),
    )
    return values, failures
