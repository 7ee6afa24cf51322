"""The OpenAPI 3.1 document, made from the table of routes and from the models that check the requests.

Clients are generated from it.  So it keeps to what their generators understand: one schema for all problems (a narrowed one for
each status has no type of its own), no default (a generated type takes the field for always there), no closed set of values in an
answer (a client of today could not read a value of tomorrow), no choice between sets of fields.

Every status an operation can answer is declared, with the codes that have it: `codes_of` is the list.  A code that no
operation can answer (405, since only declared methods are operations) is in the description.
"""

import sys
from typing import Any, Final, assert_never

import msgspec
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

from shard_worker.contract import LiveEvent, UnavailableCode
from shard_worker.domain.events import MessagesAdded, PostedMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.gateway.http.failures import Failure, FailureCode, of_body, of_field
from shard_worker.gateway.http.problems import Problem, ProblemCode, body_of, status_of, title_of
from shard_worker.gateway.public import examples, query_params
from shard_worker.gateway.public.request_models import ULID_PATTERN
from shard_worker.gateway.public.response_schemas import ANSWERS, PROBLEM, PROBLEM_ERROR
from shard_worker.gateway.public.routes import (
    COMMANDS,
    ROUTES,
    SET_READ_MARKER,
    CommandRoute,
    DocumentRoute,
    ListRoute,
    MarkerRoute,
    QueryRoute,
    Route,
    StreamRoute,
)
from shard_worker.journal.codec import encode
from shard_worker.streams.framing import HEART_BEAT, event_frame, opening_frame

Node = dict[str, Any]  # Any: a piece of the document

_SCHEMAS: Final = "#/components/schemas/"

VERSION: Final = "1.1.0"
_DESCRIPTION: Final = """\
Durable chat threads. Every acknowledged command is in the journal before its answer leaves.

**`accountId` is trusted.** There is no account table, no login and no token: a client that reaches this port may act as
any account. Keep the port private, and put authentication in front of it.

Ids are ULIDs, read in either case and answered in upper case. Instants are epoch milliseconds. Paths are exact: a
trailing slash is a 404. HEAD works wherever GET does, OPTIONS answers 204 with `Allow`, any other method 405.
`/v1` only ever gains fields.

Everything that is not a 2xx is a problem (RFC 9457) with a `code`; a client treats one that it does not know by the status. A 503 means that nothing was
stored, unless its `code` is `outcome-unknown`: then send the same request again with the same `Idempotency-Key`; do so
too after a 500 or a lost connection. `thread-poisoned` means that the thread's history cannot be read by this release;
trying again helps only after another release was rolled out. Of the failures of one request the first 1,000 are listed;
a body or a query string with far more structure than any valid one is refused with one failure that names the bound.

A character is a code point. A text with more than 30 characters of a non-zero canonical combining class in a row, as
sent, is refused; its limits count after NFC."""

_ANYWHERE: Final = (
    ProblemCode.MALFORMED_HTTP,
    ProblemCode.REQUEST_TIMEOUT,
    ProblemCode.TARGET_TOO_LONG,
    ProblemCode.MISDIRECTED_REQUEST,
    ProblemCode.HEADERS_TOO_LARGE,
    ProblemCode.TRANSFER_ENCODING_UNKNOWN,
    ProblemCode.INTERNAL_ERROR,
)
_UNAVAILABLE: Final = (
    UnavailableCode.SHARD_UNAVAILABLE,
    UnavailableCode.OVERLOADED,
    UnavailableCode.LEAVING,
    UnavailableCode.THREAD_POISONED,
)
_OF_A_STREAM: Final = (
    ProblemCode.NOT_ACCEPTABLE,
    ProblemCode.LEAVING,
    ProblemCode.TOO_MANY_STREAMS,
    ProblemCode.OVERLOADED,
)
_OF_A_BODY: Final = (
    ProblemCode.MALFORMED_JSON,
    ProblemCode.VALIDATION_FAILED,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
)
_STATUS_WORDS: Final = {
    400: "The request is not right",
    403: "Not allowed",
    404: "Not found",
    406: "Not acceptable",
    408: "Too slow",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    414: "Target too long",
    415: "Wrong media type",
    421: "Wrong host",
    431: "Header fields too large",
    500: "Fault of the worker",
    501: "Not implemented",
    503: "Not now",
    504: "Not yet",
}


def codes_of(route: Route) -> tuple[ProblemCode, ...]:
    """Every code that an operation can answer with."""
    match route:
        case CommandRoute():
            later = (*_UNAVAILABLE, UnavailableCode.OUTCOME_UNKNOWN)
            domain = (*route.refusals, *later)
            return (*_ANYWHERE, *_OF_A_BODY, *(ProblemCode(code.value) for code in domain))
        case MarkerRoute():
            own = (UnavailableCode.OUTCOME_UNKNOWN, UnavailableCode.READ_MODEL_BEHIND)
            answered = (*route.refusals, *_UNAVAILABLE, *own)
            return (*_ANYWHERE, *_OF_A_BODY, *(ProblemCode(code.value) for code in answered))
        case QueryRoute():
            domain = (*route.refusals, *_UNAVAILABLE, UnavailableCode.READ_MODEL_BEHIND)
            return (*_ANYWHERE, ProblemCode.VALIDATION_FAILED, *(ProblemCode(code.value) for code in domain))
        case ListRoute():
            return (*_ANYWHERE, ProblemCode.VALIDATION_FAILED, ProblemCode.OVERLOADED, ProblemCode.SHARD_UNAVAILABLE)
        case StreamRoute():
            refused = (ProblemCode(code.value) for code in route.refusals)
            return (*_ANYWHERE, ProblemCode.VALIDATION_FAILED, *refused, *_OF_A_STREAM)
        case DocumentRoute():
            return (*_ANYWHERE, ProblemCode.OVERLOADED)
        case _:
            assert_never(route)


def _problem_example(code: ProblemCode) -> Node:
    """A problem with this code, as the gateway writes it."""
    errors: tuple[Failure, ...] = ()
    if code is ProblemCode.VALIDATION_FAILED:
        detail = "must have 1 to 4000 characters"
        errors = (of_field(("messages", 0, "text"), FailureCode.WRONG_LENGTH, detail),)
    elif code is ProblemCode.MALFORMED_JSON:
        errors = (of_body(FailureCode.MALFORMED_JSON, "Expecting value at line 1, column 14"),)
    detail = errors[0].sentence if errors else f"{title_of(code)}."
    created = ThreadId(examples.THREAD) if code is ProblemCode.OUTCOME_UNKNOWN else None
    value: Node = msgspec.json.decode(body_of(Problem(code=code, detail=detail, errors=errors, thread_id=created)))
    return {"summary": title_of(code), "value": value}


def _problem_response(status: int, codes: list[ProblemCode]) -> Node:
    listed = "\n".join(f"- `{code}`: {title_of(code)}" for code in codes)
    shown = {code.value: {"$ref": f"#/components/examples/{code.value}"} for code in codes}
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": shown}
    response: Node = {
        "description": f"{_STATUS_WORDS[status]}:\n{listed}",
        "content": {"application/problem+json": content},
    }
    if status == 503:
        response["headers"] = {
            "Retry-After": {
                "description": "In how many seconds to try again, at the earliest.",
                "schema": {"type": "integer", "minimum": 1, "examples": [1]},
            }
        }
    return response


def _stream_example() -> str:
    """A thread's stream: its position, an event, and a comment that keeps the connection alive."""
    message = PostedMessage(MessageId(examples.MESSAGE), examples.TEXT)
    added = MessagesAdded(AccountId(examples.ACCOUNT), (message,), examples.UPDATED_AT, examples.UPDATED_AT)
    event = event_frame(ThreadId(examples.THREAD), LiveEvent(7, 1, *encode(added)))
    return (opening_frame(6, 1) + event + HEART_BEAT).decode()


def _success(route: Route, schemas: Node) -> Node:
    """The content of an operation's 200."""
    if isinstance(route, DocumentRoute):
        json = "json" in route.content_type
        schema = {"type": "object", "description": "The document."} if json else {"type": "string"}
        example: object = {"openapi": "3.1.0"} if json else "<!doctype html>"
        return {route.content_type: {"schema": schema, "example": example}}
    if isinstance(route, StreamRoute):
        text = {"type": "string", "description": "Server-sent events, without an end."}
        return {"text/event-stream": {"schema": text, "example": _stream_example()}}
    schema = {"$ref": _SCHEMAS + route.answer_schema}
    return {"application/json": {"schema": schema, "example": example_of(schema, schemas)}}


def example_of(schema: Node, schemas: Node) -> object:
    """A value that fits a schema of the document: its own example, or one made from those of its parts."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_SCHEMAS)], schemas)
    if schema["type"] == "array":
        return [example_of(schema["items"], schemas)]
    return {name: example_of(schema["properties"][name], schemas) for name in schema["required"]}


def _responses(route: Route, schemas: Node) -> Node:
    by_status: dict[int, list[ProblemCode]] = {}
    for code in codes_of(route):
        by_status.setdefault(status_of(code), []).append(code)
    responses: Node = {"200": {"description": "As asked.", "content": _success(route, schemas)}}
    if isinstance(route, CommandRoute):
        responses["200"]["headers"] = {
            "Idempotent-Replayed": {
                "schema": {"type": "string", "examples": ["true"]},
                "description": "`true` on the answer to a recognised retry, by its key or by its chosen ids; on no other.",
            }
        }
    if isinstance(route, StreamRoute) and route.refusals:
        responses["204"] = {"description": "The thread was destroyed, and the position given is its end."}
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = _problem_response(status, codes)
    return responses


def _parameter(place: str, parameter: query_params.Parameter) -> Node:
    return {
        "name": parameter.name,
        "in": place,
        "required": parameter.required,
        "description": parameter.description,
        "schema": {**parameter.schema, "examples": [parameter.example]},
    }


_IN_THE_PATH: Final = tuple(
    query_params.Parameter(name, description, example, {"type": "string", "pattern": ULID_PATTERN}, required=True)
    for name, description, example in (
        ("threadId", "The thread.", examples.THREAD),
        ("accountId", "The account, which is the caller. Trusted as it is.", examples.ACCOUNT),
    )
)
_KEY: Final = query_params.Parameter(
    "Idempotency-Key",
    "A retry with the same key and the same body gets the first answer; keys do not expire. Scope: the thread and the account; "
    "of a create without `threadId`, the account.",
    examples.IDEMPOTENCY_KEY,
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
)


def _parameters(route: Route) -> list[Node]:
    parameters = [_parameter("path", each) for each in _IN_THE_PATH if f"{{{each.name}}}" in route.template]
    if isinstance(route, CommandRoute | MarkerRoute):
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if isinstance(route, StreamRoute):
        parameters.append(_parameter("header", route.last_event_id))
    if isinstance(route, QueryRoute | ListRoute | StreamRoute):
        parameters += [_parameter("query", each) for each in route.parameters]
    return parameters


_TAGS: Final = {
    "Commands": "Requests that change a thread. Each may be sent again with the same `Idempotency-Key`.",
    "Queries": "Requests that read. They may be sent again at any time.",
    "Streams": "Events as they happen.",
    "Documents": "This document.",
}


def _tag(route: Route) -> str:
    match route:
        case CommandRoute() | MarkerRoute():
            return "Commands"
        case QueryRoute() | ListRoute():
            return "Queries"
        case StreamRoute():
            return "Streams"
        case DocumentRoute():
            return "Documents"
        case _:
            assert_never(route)


def _operation(route: Route, schemas: Node) -> Node:
    operation: Node = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "description": route.description,
        "tags": [_tag(route)],
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if isinstance(route, CommandRoute | MarkerRoute):
        schema = {"$ref": _SCHEMAS + route.body.__name__}
        operation["requestBody"] = {
            "required": True,
            "description": f"At most {route.body_limit_bytes} bytes.",
            "content": {"application/json": {"schema": schema, "example": example_of(schema, schemas)}},
        }
    operation["responses"] = _responses(route, schemas)
    return operation


class _RequestSchemas(GenerateJsonSchema):
    """Schemas of the bodies, without titles, which repeat the names, and without defaults."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _request_schemas() -> Node:
    _, schema = models_json_schema(
        [(route.body, "validation") for route in (*COMMANDS, SET_READ_MARKER)],
        ref_template=_SCHEMAS + "{model}",
        schema_generator=_RequestSchemas,
    )
    definitions: Node = schema["$defs"]
    for definition in definitions.values():
        del definition["title"]
        definition["description"] = definition["description"].replace("``", "`")
    return definitions


def document() -> Node:
    """The whole document."""
    schemas = {**_request_schemas(), **ANSWERS, "ProblemError": PROBLEM_ERROR, "Problem": PROBLEM}
    paths: dict[str, Node] = {}
    codes: dict[ProblemCode, None] = {}
    for route in ROUTES:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, schemas)
        codes |= dict.fromkeys(codes_of(route))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ThreadCluster",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "parameters": {"IdempotencyKey": _parameter("header", _KEY)},
            "schemas": schemas,
            "examples": {code.value: _problem_example(code) for code in codes},
        },
    }


def openapi_json() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document())


def openapi_text() -> str:
    """The document as `docs/openapi.json` holds it: indented, so that a change is a readable difference."""
    return msgspec.json.format(openapi_json(), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
