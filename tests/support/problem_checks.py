"""The check of a problem's whole shape."""

from typing import Any

import jsonschema_rs

from shard_worker.gateway.http.failures import FailureCode
from shard_worker.gateway.http.problems import OF_MANAGEMENT, ProblemCode, title_of
from shard_worker.gateway.public.response_schemas import PROBLEM, PROBLEM_ERROR
from tests.support.wire import Answered

_SCHEMA = jsonschema_rs.Draft202012Validator({**PROBLEM, "components": {"schemas": {"ProblemError": PROBLEM_ERROR}}})


def check(answered: Answered, status: int, code: str) -> Answered:
    """The answer is this problem, in its whole shape."""
    assert (answered.status, answered.json["code"]) == (status, code)
    assert answered.headers["content-type"] == "application/problem+json"
    _SCHEMA.validate(answered.json)
    if code not in OF_MANAGEMENT:
        assert code in PROBLEM["properties"]["code"]["x-extensible-enum"]
    assert answered.json["status"] == status
    assert answered.json["type"] == f"urn:threadcluster:problem:{code}"
    assert answered.json["title"] == title_of(ProblemCode(code))
    _check_errors(answered.json)
    return answered


def _check_errors(problem: Any) -> None:  # Any: JSON
    """The failures for programs are the sentences' own, one by one; there are some exactly where something is not valid."""
    errors, sentences = problem["errors"], problem["error_messages"]
    assert bool(errors) == (problem["code"] in ("validation-failed", "malformed-json"))
    for error, sentence in zip(errors, sentences, strict=True) if errors else ():
        assert sentence.endswith(error["detail"])
        assert error["code"] in set(FailureCode)
        assert (
            error["pointer"] == ""
            or error["pointer"].startswith("/")
            or sentence.startswith(error["pointer"])
            or (error["pointer"] == "id" and sentence.startswith(("threadId: ", "accountId: ")))
        )
    if not errors:
        assert sentences == [problem["detail"]]
