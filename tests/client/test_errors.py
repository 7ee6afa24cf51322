"""Answers that are no success, as errors."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_client import errors
from threadcluster_client.errors import (
    ClientClosed,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    FieldError,
    ProblemError,
    ReadModelBehind,
    ServerError,
    Unavailable,
    is_retryable,
    leaves_outcome_open,
    problem_error,
)

from shard_worker.gateway.http.problems import OF_MANAGEMENT, Problem, ProblemCode

PUBLIC = sorted(set(ProblemCode) - OF_MANAGEMENT)
OF_CODE = {
    each.code_of_class: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ProblemError) and each.code_of_class
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = ("code", "title", "detail", "errors", "error_messages", "threadId", "status")


def status_of(code: ProblemCode) -> int:
    """The status that the server gives to a code."""
    return Problem(code=code, detail="").status


def test_every_class_is_of_a_code_that_the_server_has() -> None:
    """And a subclass of the one of that code's status."""
    assert set(OF_CODE) <= set(PUBLIC)
    for code, kind in OF_CODE.items():
        assert code is not None
        unknown = problem_error(status_of(ProblemCode(code)), b'{"code":"not known"}')
        assert issubclass(kind, type(unknown))


@pytest.mark.parametrize("code", PUBLIC)
def test_a_code_chooses_the_class(code: ProblemCode) -> None:
    """Where it has one; the domain's refusals all have."""
    error = problem_error(status_of(code), json.dumps({"code": code, "new": 1}).encode(), 3.0)
    assert type(error) is OF_CODE.get(code, type(problem_error(status_of(code), b"")))
    assert (error.code, error.status, error.retry_after_s, error.document["new"]) == (code, status_of(code), 3.0, 1)
    if status_of(code) in (403, 409, 410, 503):
        assert code in OF_CODE


@given(
    st.integers(300, 599),
    st.binary() | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(FIELDS), JSON).map(json.dumps),
)
def test_any_answer_is_an_error(status: int, body: bytes | str) -> None:
    """Whatever a proxy says."""
    error = problem_error(status, body)
    assert error.status == status
    assert str(status) in str(error)
    assert isinstance(error.code + error.title + error.detail, str)
    assert all(isinstance(each, str) for each in error.error_messages)
    assert all(isinstance(each, FieldError) for each in error.errors)
    assert isinstance(error, ServerError) or status < 500 or error.code in OF_CODE
    leaves_outcome_open(error)


def test_the_fields_of_a_problem_are_read() -> None:
    """Also of a release that lists failures by pointer."""
    failure = {"pointer": "/title", "code": "too-long", "detail": "at most 255", "new": 1}
    document = {
        "code": "validation-failed",
        "detail": "d",
        "errors": [failure, 7],
        "error_messages": ["a", 1],
        "threadId": "T",
    }
    error = problem_error(400, json.dumps(document))
    assert error.errors == (FieldError("/title", "too-long", "at most 255"),)
    assert (error.error_messages, error.thread_id, str(error)) == (("a",), "T", "400 validation-failed: d")
    assert str(problem_error(502, b"<html>")) == "502 without a code: no detail"


def test_an_error_survives_another_process() -> None:
    """With the key that its command goes on with."""
    error = problem_error(409, b'{"code":"message-limit"}')
    error.idempotency_key = "key"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.idempotency_key, again.status) == (errors.MessageLimit, "key", 409)


def test_attempts_are_repeated_where_another_may_succeed() -> None:
    """A refusal is final, and so is an answer that has waited already."""
    assert is_retryable(ConnectionFailed())
    assert not is_retryable(ClientClosed())
    assert not is_retryable(DeadlineExceeded())
    retried = {status for status in range(300, 600) if is_retryable(problem_error(status, b""))}
    assert retried == {408, 429, 502, 503, 504}
    assert not is_retryable(problem_error(504, b'{"code":"read-model-behind"}'))
    assert isinstance(problem_error(504, b'{"code":"read-model-behind"}'), ReadModelBehind)
    assert isinstance(problem_error(409, b'{"code":"new"}'), Conflict)
    assert isinstance(problem_error(503, b'{"code":"new"}'), Unavailable)


@pytest.mark.parametrize(
    ("status", "code", "is_open"),
    [
        (409, "message-limit", False),
        (503, "overloaded", None),
        (503, "a new one", None),
        (429, "", None),
        (503, "outcome-unknown", True),
        (503, "", True),  # of a proxy: it may have sent the command on
        (502, "", True),
        (500, "internal-error", True),
        (408, "request-timeout", True),
    ],
)
def test_an_answer_says_whether_its_command_may_be_stored(status: int, code: str, is_open: bool | None) -> None:
    """None: this attempt was not, but an earlier one may be."""
    assert leaves_outcome_open(problem_error(status, json.dumps({"code": code}))) is is_open
