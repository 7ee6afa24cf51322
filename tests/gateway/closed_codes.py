"""A check for schemathesis: the codes that the server answers are those that the table of routes has for the operation.

The document leaves codes open, for clients of later releases; the server's own set is closed.
"""

from typing import Any

import schemathesis

from shard_worker.gateway.http.problems import ProblemCode, status_of
from shard_worker.gateway.public.openapi import codes_of
from shard_worker.gateway.public.routes import ROUTES

_CODES = {(route.method, route.template): codes_of(route) for route in ROUTES}


@schemathesis.check
def code_of_the_operation(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A problem's code is one of its operation's with this status."""
    if response.headers.get("content-type", [""])[0] != "application/problem+json":
        return
    code = ProblemCode(response.json()["code"])
    expected: tuple[ProblemCode, ...] = (ProblemCode.METHOD_NOT_ALLOWED,)
    if response.status_code != 405:
        expected = _CODES[case.operation.method.upper(), case.operation.path]
    assert code in expected, f"{code} is no code of {case.operation.label}"
    assert status_of(code) == response.status_code
