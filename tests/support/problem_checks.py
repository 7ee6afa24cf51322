"""The check of a problem's whole shape."""

import jsonschema_rs

from shard_worker.gateway.http.problems import OF_MANAGEMENT, ProblemCode, title_of
from shard_worker.gateway.public.response_schemas import PROBLEM
from tests.support.wire import Answered


def check(answered: Answered, status: int, code: str) -> Answered:
    """The answer is this problem, in its whole shape."""
    assert (answered.status, answered.json["code"]) == (status, code)
    assert answered.headers["content-type"] == "application/problem+json"
    if code not in OF_MANAGEMENT:
        jsonschema_rs.validate(PROBLEM, answered.json)
    assert answered.json["status"] == status
    assert answered.json["type"] == f"urn:threadcluster:problem:{code}"
    assert answered.json["title"] == title_of(ProblemCode(code))
    return answered
