"""The OpenAPI 3.1 document, made from the table of routes and from the models that check the requests.

Every status an operation can answer is declared, with the codes that have it: `codes_of` is the list.  A code that no
operation can answer (405, since only declared methods are operations) is in the description.
"""

import sys
from typing import Any, Final, assert_never

import msgspec
from pydantic.json_schema import models_json_schema

from shard_worker.contract import UnavailableCode
from shard_worker.gateway.http.problems import ProblemCode, status_of, title_of
from shard_worker.gateway.public.request_models import ULID_PATTERN
from shard_worker.gateway.public.response_schemas import ANSWERS, PROBLEM
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

Node = dict[str, Any]  # Any: a piece of the document

VERSION: Final = "1.0.0"
_DESCRIPTION: Final = """\
Durable chat threads. Every acknowledged command is in the journal before its answer leaves.

**`accountId` is trusted.** There is no account table, no login and no token: a client that reaches this port may act as
any account. Keep the port private, and put authentication in front of it.

Ids are ULIDs, read in either case and answered in upper case. Instants are epoch milliseconds. Paths are exact: a
trailing slash is a 404. HEAD works wherever GET does, OPTIONS answers 204 with `Allow`, any other method 405.
`/v1` only ever gains fields.

Everything that is not a 200 is a problem (RFC 9457) with a `code` from a closed list. A 503 means that nothing was
stored, unless its `code` is `outcome-unknown`: then send the same request again with the same `Idempotency-Key`; do so
too after a 500 or a lost connection. `thread-poisoned` means that the thread's history cannot be read by this release;
trying again helps only after another release was rolled out. Of the failures of one request the first 1,000 are listed;
a body or a query string with far more structure than any valid one is refused with one failure that names the bound.

A character is a code point. A text with more than 30 characters of a non-zero canonical combining class in a row, as
sent, is refused; its limits count after NFC."""

_STREAM: Final = """\
Server-sent events, one a domain event, in the order of their sequence numbers: `id` is the position, `event` the type,
`data` its JSON on one line with `threadId`, `sequenceNr` and `epoch`. The stream opens with its position alone. `reset`
says that the position given is not in the history any more: read the thread again. `error`, whose `data` is a problem,
ends the stream. Comments keep the connection alive."""

_ACCOUNT_STREAM: Final = """\
Server-sent events, one a domain event: `event` is the type, `data` its JSON on one line with `threadId`, `sequenceNr` and
`epoch`. In order within a thread, at least once: drop what you have by these three. The stream opens with its position alone;
newer ones come alone, as an `id` without data. `reset`, with a `threadId` of null, says that any thread may have lost events:
list them again. `error`, whose `data` is a problem with a `threadId`, says that the stream goes on without that thread. Comments
keep the connection alive."""

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


def _problem_response(status: int, codes: list[ProblemCode]) -> Node:
    listed = "\n".join(f"- `{code}`: {title_of(code)}" for code in codes)
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": [code.value for code in codes]}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]}
    response: Node = {
        "description": f"{_STATUS_WORDS[status]}:\n{listed}",
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == 503:
        seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "In how many seconds to try again."}
        response["headers"] = {"Retry-After": seconds}
    return response


def _responses(route: Route) -> Node:
    if isinstance(route, DocumentRoute):
        content: Node = {
            route.content_type: {"schema": {"type": "object" if "json" in route.content_type else "string"}}
        }
    elif isinstance(route, StreamRoute):
        described = _STREAM if route.refusals else _ACCOUNT_STREAM
        content = {"text/event-stream": {"schema": {"type": "string", "description": described}}}
    else:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{route.answer_schema}"}}}
    by_status: dict[int, list[ProblemCode]] = {}
    for code in codes_of(route):
        by_status.setdefault(status_of(code), []).append(code)
    responses: Node = {"200": {"description": "As asked.", "content": content}}
    if isinstance(route, CommandRoute):
        responses["200"]["headers"] = {
            "Idempotent-Replayed": {
                "schema": {"const": "true"},
                "description": "On the answer to a recognised retry, by its key or by its chosen ids; on no other.",
            }
        }
    if isinstance(route, StreamRoute) and route.refusals:
        responses["204"] = {"description": "The thread was destroyed, and the position given is its end."}
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = _problem_response(status, codes)
    return responses


def _parameters(route: Route) -> list[Node]:
    parameters: list[Node] = []
    for name in ("threadId", "accountId"):
        if f"{{{name}}}" in route.template:
            schema = {"type": "string", "pattern": ULID_PATTERN}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if isinstance(route, CommandRoute | MarkerRoute):
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if isinstance(route, QueryRoute | ListRoute | StreamRoute):
        parameters += [
            {
                "name": parameter.name,
                "in": "query",
                "required": parameter.required,
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in route.parameters
        ]
    return parameters


def _operation(route: Route) -> Node:
    tag = {
        CommandRoute: "Commands",
        MarkerRoute: "Commands",
        QueryRoute: "Queries",
        StreamRoute: "Streams",
        ListRoute: "Queries",
        DocumentRoute: "Documents",
    }[type(route)]
    operation: Node = {"operationId": route.operation_id, "summary": route.summary, "tags": [tag]}
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if isinstance(route, CommandRoute | MarkerRoute):
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        operation["requestBody"] = {
            "required": True,
            "description": f"At most {route.body_limit_bytes} bytes.",
            "content": {"application/json": {"schema": schema}},
        }
    operation["responses"] = _responses(route)
    return operation


def _request_schemas() -> Node:
    _, schema = models_json_schema(
        [(route.body, "validation") for route in (*COMMANDS, SET_READ_MARKER)],
        ref_template="#/components/schemas/{model}",
    )
    definitions: Node = schema["$defs"]
    return definitions


def document() -> Node:
    """The whole document."""
    paths: dict[str, Node] = {}
    for route in ROUTES:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A retry with the same key and the same body gets the first answer; keys do not expire. Scope: the "
        "thread and the account; of a create without `threadId`, the account.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "ThreadCluster", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "parameters": {"IdempotencyKey": key},
            "schemas": {**_request_schemas(), **ANSWERS, "Problem": PROBLEM},
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
