"""The meaning of the API server's error answers, as its sources and a real one word them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.kube.answers import Answer, meaning_of, meaning_of_report
from threadcluster_operator.kube.client import Conflict, Forbidden, KubeError, NotFound, Rejected, Unreachable, error_of

ANSWERS = [
    (
        500,
        "InternalError",
        'failed calling webhook "a.b": failed to call webhook: Post "https://x": EOF',
        "ADMISSION_DOWN",
    ),
    (
        503,
        "ServiceUnavailable",
        'Internal error occurred: failed calling webhook "a.b": received invalid',
        "ADMISSION_DOWN",
    ),
    (403, "Forbidden", 'admission webhook "a.b" denied the request: exceeded quota', "DENIED"),
    (500, "", 'admission webhook "a.b" denied the request: failed calling webhook "c"', "DENIED"),
    (404, "", 'admission webhook "a.b" denied the request without explanation', "DENIED"),
    (409, "", 'admission webhook "a.b" denied the request: already exists', "DENIED"),
    (
        *(
            422,
            "Invalid",
            "services \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
        ),
        "DENIED",
    ),
    (403, "Forbidden", 'pods "a" is forbidden: violates PodSecurity "restricted:latest": x', "DENIED"),
    (403, "Forbidden", 'pods "a" is forbidden: maximum cpu usage per Container is 1, but limit is 2', "DENIED"),
    (400, "BadRequest", 'admission webhook "a.b" does not support dry run', "NO_DRY_RUN"),
    (
        *(403, "Forbidden", 'jobs.batch "a" is forbidden: User "u" cannot create resource "jobs" in API group "batch"'),
        "NOT_PERMITTED",
    ),
    (403, "", "", "NOT_PERMITTED"),
    (403, "Forbidden", 'pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0', "QUOTA"),
    (403, "Forbidden", 'pods "a" is forbidden: failed quota: q: must specify limits.cpu for: worker', "QUOTA"),
    (
        *(
            403,
            "Forbidden",
            'services "a" is forbidden: unable to create new content in namespace n because it is being',
        ),
        "DENIED",
    ),
    (
        403,
        "Forbidden",
        "unable to create new content in namespace n because it is being terminated",
        "NAMESPACE_ENDING",
    ),
    (500, "", "failed to create typed patch object (n/a; apps/v1, Kind=StatefulSet): .spec.x: no", "INVALID"),
    (
        400,
        "BadRequest",
        'StatefulSet in version "v1" cannot be handled: strict decoding error: unknown field "x"',
        "INVALID",
    ),
    (422, "Invalid", 'Service "a" is invalid: spec.ports[0].port: Invalid value: 0', "INVALID"),
    (405, "MethodNotAllowed", "not supported", "INVALID"),
    (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", "TOO_LARGE"),
    (413, "", "", "TOO_LARGE"),
    (500, "", "etcdserver: request is too large", "TOO_LARGE"),
    (404, "", "404 page not found", "KIND_MISSING"),
    (404, "NotFound", "the server could not find the requested resource", "KIND_MISSING"),
    (404, "NotFound", 'namespaces "n" not found', "NAMESPACE_MISSING"),
    (404, "NotFound", 'services "a" not found', "MISSING"),
    (409, "AlreadyExists", 'services "a" already exists', "EXISTS"),
    (409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified', "CONFLICT"),
    (409, "", "", "CONFLICT"),
    (429, "TooManyRequests", "The apiserver has received too many requests", "THROTTLED"),
    (429, "TooManyRequests", "storage is (re)initializing", "THROTTLED"),
    (429, "", "", "THROTTLED"),
    (401, "Unauthorized", "Unauthorized", "UNKNOWN_CLIENT"),
    (500, "InternalError", "Internal error occurred: etcdserver: leader changed", "FAILING"),
    (504, "Timeout", "Timeout: request did not complete", "FAILING"),
    (0, "", "nothing answers", "AWAY"),
]


@pytest.mark.parametrize(("status", "reason", "message", "answer"), ANSWERS)
def test_what_an_answer_says_counts_before_its_number(status: int, reason: str, message: str, answer: str) -> None:
    """Each as a server words it."""
    assert meaning_of(status, reason, message) is Answer[answer]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ('create Pod chat-0 in StatefulSet chat failed error: pods "chat-0" is forbidden: exceeded quota: q', "QUOTA"),
        ('Error creating: pods "a" is forbidden: violates PodSecurity "restricted:latest"', "DENIED"),
        ('Error creating: Internal error occurred: failed calling webhook "a.b": EOF', "ADMISSION_DOWN"),
        ('Error creating: pods "a" is forbidden: no PriorityClass with name high was found', "DENIED"),
        ('create Pod chat-0 in StatefulSet chat failed error: Pod "chat-0" is invalid: spec.x: no', "INVALID"),
        ('Error creating: pods "a" already exists', "EXISTS"),
        ("something else", None),
    ],
)
def test_a_controllers_event_is_read_by_the_same_table(message: str, answer: str | None) -> None:
    """It has no number; what is not known is no answer."""
    assert meaning_of_report(message) is (None if answer is None else Answer[answer])


@given(status=st.integers(0, 599), reason=st.text(max_size=20), message=st.text(max_size=60))
def test_every_answer_has_a_meaning_and_an_error(status: int, reason: str, message: str) -> None:
    """The error's class follows from the meaning alone."""
    error = error_of(status, reason, message)
    assert (error.answer, str(error), error.status) == (meaning_of(status, reason, message), message, status)
    assert type(error) in (Conflict, Forbidden, NotFound, Rejected, Unreachable)
    assert isinstance(error, KubeError)
    assert (error.answer is Answer.AWAY) == (status == 0)
