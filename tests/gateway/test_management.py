"""The management port: probes, metrics, the cluster, and the internal API."""

import re
from collections.abc import AsyncIterator

import msgspec
import pytest

from shard_worker.contract_tls import internal_client_context
from shard_worker.gateway.http.metrics import RequestMetrics
from shard_worker.gateway.management.server import ManagementPort
from tests.fakes.management_view import CHANGE, OWNERSHIP, MemoryView
from tests.support.management_port import serving
from tests.support.paths import ROOT
from tests.support.problem_checks import check
from tests.support.wire import JSON_TYPE, Answered, Api, request_bytes

SECRET = b"sword and fish 16"
PLAN = b'{"planVersion": 4, "hash": "h", "targets": [{"shard": 0, "target": "w-0", "reason": "up"}]}'


@pytest.fixture
def view() -> MemoryView:
    """A worker's view of the cluster."""
    return MemoryView()


@pytest.fixture
async def management(view: MemoryView) -> AsyncIterator[Api]:
    """A client of a management port."""
    metrics = RequestMetrics()
    metrics.observe("getThread", 200, 0.003)
    metrics.observe("getThread", 404, 20.0)
    with serving(ManagementPort(view, metrics), SECRET) as port:
        yield Api(port, internal_client_context((SECRET,)))


def put(body: bytes, *headers: tuple[str, str], path: str = "/internal/v1/targets") -> bytes:
    """PUT the targets, or to another path."""
    return request_bytes("PUT", path, headers=(JSON_TYPE, *headers), body=body)


async def post(management: Api, path: str, body: bytes | None = None) -> Answered:
    """POST under /internal/v1."""
    headers = () if body is None else (JSON_TYPE,)
    return await management.send(request_bytes("POST", f"/internal/v1/{path}", headers=headers, body=body))


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_say_why_not(management: Api, view: MemoryView, path: str) -> None:
    """200 when well, 503 with the reason."""
    assert ((await management.get(path)).status, (await management.get(path)).json["ok"]) == (200, True)
    view.why_not = "leaving"
    answered = await management.get(path)
    assert (answered.status, answered.json) == (503, {"ok": False, "reason": "leaving"})


async def test_metrics_are_prometheus_text(management: Api) -> None:
    """Counts by operation and status, and a histogram whose buckets add up."""
    answered = await management.get("/metrics")
    assert answered.headers["content-type"].startswith("text/plain")
    text = answered.body.decode()
    assert 'threadcluster_http_requests_total{operation="getThread",status="404"} 1.0' in text
    assert 'threadcluster_http_request_seconds_bucket{le="0.005",operation="getThread"} 1.0' in text
    assert 'threadcluster_http_request_seconds_bucket{le="+Inf",operation="getThread"} 2.0' in text
    assert 'threadcluster_http_request_seconds_sum{operation="getThread"} 20.003' in text
    assert "threadcluster_http_requests_in_flight 0.0" in text


async def test_the_cluster_is_shown(management: Api) -> None:
    """To anybody who reaches the port."""
    assert (await management.get("/cluster")).json == {"workers": [], "shards": []}


@pytest.mark.parametrize(
    "headers",
    [(), (("Authorization", f"Bearer {SECRET.decode()}"),), (("Authorization", "é"),)],
    ids=["bare", "secret", "no ASCII"],
)
async def test_401_in_the_clear(management: Api, view: MemoryView, headers: tuple[tuple[str, str], ...]) -> None:
    """Nothing under /internal is shown or taken, not even whether it exists; the secret itself is worth nothing."""
    management.context = None
    check(await management.get("/internal/v1/ownership", *headers), 401, "unauthorized")
    check(await management.get("/internal/v1/nothing", *headers), 401, "unauthorized")
    check(await management.send(put(PLAN, *headers)), 401, "unauthorized")
    assert view.targets is None


async def test_ownership_for_who_plans(management: Api) -> None:
    """As the worker sees it."""
    assert (await management.get("/internal/v1/ownership")).json == msgspec.json.decode(msgspec.json.encode(OWNERSHIP))


async def test_a_pin_is_recorded_and_taken_away(management: Api, view: MemoryView) -> None:
    """And it is answered whether that changed anything."""
    for worker, changed in (("w-0", True), ("w-0", False), (None, True)):
        body = msgspec.json.encode({"shard": 3, "worker": worker})
        answered = await management.send(put(body, path="/internal/v1/pins"))
        assert (answered.status, answered.json) == (200, {"shard": 3, "worker": worker, "changed": changed})
    assert view.pins == {3: None}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "shard"),
        (b'{"shard": 8, "worker": null}', "shard: there is no shard 8"),
        (b'{"shard": -1, "worker": null}', "shard: there is no shard -1"),
        (b'{"shard": 1, "worker": ""}', "worker: must be null"),
        (b'{"shard": 1, "worker": "a\\u0000"}', "worker: must be null"),
        (b'{"shard": 1, "worker": null, "x": 1}', "`x`"),
    ],
)
async def test_a_pin_that_is_not_understood_changes_nothing(
    management: Api, view: MemoryView, body: bytes, field: str
) -> None:
    """By the name of the field."""
    answered = await management.send(put(body, path="/internal/v1/pins"))
    check(answered, 400, "validation-failed")
    assert field in str(answered.json["error_messages"])
    assert view.pins == {}


async def test_a_database_of_another_cluster_is_not_changed(management: Api, view: MemoryView) -> None:
    """The refusal says whose it is."""
    view.of_other = True
    for request in (put(PLAN), put(b'{"shard": 1, "worker": null}', path="/internal/v1/pins")):
        answered = await management.send(request)
        check(answered, 409, "database-claimed-by-other")
        assert "belongs to cluster 'other'" in answered.json["detail"]


async def test_targets_are_taken_from_the_newest_plan_alone(management: Api, view: MemoryView) -> None:
    """Compare-and-set: a plan made from an older one is stale."""
    answered = await management.send(put(PLAN))
    assert (answered.status, answered.json) == (200, {"planVersion": 5})
    assert view.targets == ("h", [(0, "w-0", "up")])
    stale = await management.send(put(PLAN.replace(b"4", b"3")))
    check(stale, 409, "plan-stale")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"{}", "planVersion", id="empty"),
        pytest.param(b"[]", "object", id="list"),
        pytest.param(PLAN.replace(b"4", b'"4"'), "$.planVersion", id="wrong type"),
        pytest.param(PLAN.replace(b'"h"', b'"h", "x": 1'), "`x`", id="unknown field"),
        pytest.param(PLAN.replace(b'"up"', b'"up", "y": 1'), "`y` - at `$.targets[0]`", id="unknown field within"),
        pytest.param(PLAN.replace(b"{", b'{"hash": "h",', 1), "hash: duplicate", id="twice"),
        pytest.param(PLAN.replace(b": 0", b": 8"), "targets[0].shard: there is no shard 8, only 0 to 7", id="no shard"),
        pytest.param(PLAN.replace(b": 0", b": -1"), "targets[0].shard: there is no shard -1", id="below 0"),
        pytest.param(
            PLAN.replace(b"}]", b'}, {"shard": 0, "target": null, "reason": ""}]'),
            "targets[1].shard: shard 0 is at targets[0] already",
            id="shard twice",
        ),
        pytest.param(PLAN.replace(b'"w-0"', b'""'), "targets[0].target: must be", id="no name"),
        pytest.param(PLAN.replace(b"up", b"\\u0000"), "targets[0].reason: must be", id="no text"),
        pytest.param(PLAN.replace(b"up", b"\\ud800"), "targets[0].reason: must be", id="surrogate in the reason"),
        pytest.param(PLAN.replace(b"w-0", b"\\udfff"), "targets[0].target: must be", id="surrogate in the target"),
        pytest.param(PLAN.replace(b'"h"', b'"\\ud800"'), "hash: must be", id="surrogate in the hash"),
        pytest.param(PLAN.replace(b'"hash"', b'"\\ud800"'), "not Unicode text", id="surrogate in a name"),
        pytest.param(
            PLAN.replace(b'"reason"', b'"\\udc00"'), "not Unicode text", id="surrogate in a name within a target"
        ),
        pytest.param(PLAN.replace(b": 4", b": 9223372036854775808"), "9223372036854775807", id="version of 65 bits"),
        pytest.param(PLAN.replace(b": 4", b": -1"), ">= 0", id="version below 0"),
        pytest.param(PLAN.replace(b'"h"', b'"\\ud800"'), "hash: must be", id="no hash"),
    ],
)
async def test_400_a_plan_that_is_not_understood(management: Api, view: MemoryView, body: bytes, field: str) -> None:
    """Nothing is taken by halves, and the answer says what is wrong."""
    answered = check(await management.send(put(body)), 400, "validation-failed")
    assert any(field in message for message in answered.json["error_messages"]), answered.json
    assert view.targets is None


async def test_400_a_plan_that_is_not_json(management: Api) -> None:
    """As on the public port."""
    check(await management.send(put(b"{")), 400, "malformed-json")


@pytest.mark.parametrize(
    ("verb", "flags"), [("cordon", (True, False)), ("drain", (True, True)), ("uncordon", (False, False))]
)
async def test_workers_are_cordoned_and_drained(
    management: Api, view: MemoryView, verb: str, flags: tuple[bool, bool]
) -> None:
    """By name, as often as one likes; an empty body and an empty object are the same."""
    for body in (None, b"", b"{}"):
        answered = await post(management, f"workers/w%201/{verb}", body)
        assert (answered.status, answered.json) == (
            200,
            {"name": "w 1", "cordoned": flags[0], "draining": flags[1]},
        )
    assert view.cordons == {"w-0": (False, False), "w 1": flags}


@pytest.mark.parametrize("name", ["unknown", "w%00", "{name}"])
async def test_404_a_worker_that_never_was(management: Api, name: str) -> None:
    """The answer lists those that were."""
    answered = check(await post(management, f"workers/{name}/drain"), 404, "worker-not-found")
    assert "known are: w 1, w-0" in answered.json["detail"]


@pytest.mark.parametrize("path", ["workers/w-0/stop", "workers//drain", "workers/w-0/drain/", "workers/w-0", "nothing"])
async def test_404_another_path(management: Api, view: MemoryView, path: str) -> None:
    """As on the public port."""
    check(await post(management, path), 404, "route-not-found")
    assert view.cordons["w-0"] == (False, False)


async def test_leaving_is_begun_and_asked_after_alike(management: Api, view: MemoryView) -> None:
    """A repeated request gets the remaining number."""
    for _ in range(2):
        answered = await post(management, "leave")
        assert (answered.status, answered.json) == (200, {"owned": 3, "leaving": True})
    assert view.left == 2


@pytest.mark.parametrize("path", ["leave", "workers/w-0/drain"])
async def test_400_fields_where_none_are_known(management: Api, view: MemoryView, path: str) -> None:
    """A wish that is not understood changes nothing."""
    answered = check(await post(management, path, b'{"force": true}'), 400, "validation-failed")
    assert answered.json["error_messages"] == ["force: is not a field of this request"]
    check(await post(management, path, b"[]"), 400, "validation-failed")
    check(await post(management, path, b"{"), 400, "malformed-json")
    answered = check(await post(management, f"{path}?force"), 400, "validation-failed")
    assert answered.json["error_messages"] == ["force: is not a parameter of this request"]
    assert (view.left, view.cordons["w-0"]) == (0, (False, False))


@pytest.mark.parametrize(
    ("query", "asked"),
    [("", (50, None)), ("?limit=7", (7, None)), ("?shard=0", (50, 0)), ("?limit=1000&shard=7", (1000, 7))],
)
async def test_history_is_asked_for_by_limit_and_shard(
    management: Api, view: MemoryView, query: str, asked: tuple[int, int | None]
) -> None:
    """Both can be left out."""
    answered = await management.get(f"/internal/v1/history{query}")
    assert (answered.status, answered.json) == (200, {"changes": [msgspec.to_builtins(CHANGE)]})
    assert view.asked == asked


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("limit=0", "limit: must be an integer from 1 to 1000"),
        ("limit=1001", "limit: must be an integer from 1 to 1000"),
        ("limit=", "limit: must be an integer from 1 to 1000"),
        ("shard=8", "shard: must be an integer from 0 to 7"),
        ("shard=one", "shard: must be an integer from 0 to 7"),
        ("shard=1&shard=2", "shard: is given twice"),
        ("worker=w-0", "worker: is not a parameter of this request"),
    ],
)
async def test_400_a_history_that_cannot_be(management: Api, view: MemoryView, query: str, failure: str) -> None:
    """Nothing is clamped or overlooked."""
    answered = check(await management.get(f"/internal/v1/history?{query}"), 400, "validation-failed")
    assert answered.json["error_messages"] == [failure]
    assert view.asked is None


async def test_503_without_the_database(management: Api, view: MemoryView) -> None:
    """Known state is still answered; requests that need the database fail."""
    view.away = True
    assert (await management.get("/internal/v1/ownership")).status == 200
    assert (await post(management, "leave")).status == 200
    check(await management.get("/internal/v1/history"), 503, "database-away")
    check(await management.get("/internal/v1/history?shard=1"), 503, "database-away")
    check(await management.get(f"/internal/v1/threads/{THREAD}"), 503, "database-away")
    check(await management.get(f"/internal/v1/threads/{THREAD}/state"), 503, "database-away")
    check(await post(management, "workers/w-0/cordon"), 503, "database-away")
    answered = check(await management.send(put(PLAN)), 503, "database-away")
    assert answered.headers["retry-after"] == "1"


THREAD = "01KB0000000000000000000007"


async def test_a_thread_is_inspected(management: Api, view: MemoryView) -> None:
    """Its last events, those before one, and its state now or after one; the id in either case of letters."""
    found = await management.get(f"/internal/v1/threads/{THREAD.lower()}")
    assert (found.status, found.json["threadId"], view.asked) == (200, THREAD, (THREAD, None, 100))
    await management.get(f"/internal/v1/threads/{THREAD}?before=7&limit=2")
    assert view.asked == (THREAD, 7, 2)
    assert (await management.get(f"/internal/v1/threads/{THREAD}/state")).json["sequenceNr"] == 0
    await management.get(f"/internal/v1/threads/{THREAD}/state?at=0")
    assert view.asked == (THREAD, 0)  # type: ignore[comparison-overlap]  # a request changes it


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("x", 400, "validation-failed"),
        (f"{THREAD}?limit=101", 400, "validation-failed"),
        (f"{THREAD}?before=0", 400, "validation-failed"),
        (f"{THREAD}?at=1", 400, "validation-failed"),
        (f"{THREAD}/state?at=-1", 400, "validation-failed"),
        ("x/state", 400, "validation-failed"),
        (f"{THREAD}/", 404, "route-not-found"),
        (f"{THREAD}/states", 404, "route-not-found"),
        ("", 404, "route-not-found"),
        ("{threadId}", 400, "validation-failed"),
    ],
)
async def test_an_inspection_that_is_not_understood(management: Api, path: str, status: int, code: str) -> None:
    """As any request."""
    check(await management.get(f"/internal/v1/threads/{path}"), status, code)


def test_the_document_and_the_routes_say_the_same() -> None:
    """Each route has its heading in docs/internal-api.md, and there is no other."""
    text = (ROOT / "docs" / "internal-api.md").read_text()
    documented = re.findall(r"^## `([A-Z]+) (/\S*)`$", text, re.MULTILINE)
    routes = {
        (method, path) for path, methods in ManagementPort(MemoryView()).internal.routes.items() for method in methods
    }
    assert sorted(documented) == sorted(routes)


async def test_paths_and_methods_are_exact(management: Api) -> None:
    """As on the public port."""
    check(await management.get("/livez/"), 404, "route-not-found")
    answered = check(await management.send(request_bytes("POST", "/livez")), 405, "method-not-allowed")
    assert answered.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await management.send(request_bytes("OPTIONS", "/metrics"))).status == 204
    head = await management.send(request_bytes("HEAD", "/cluster"), head=True)
    assert (head.status, head.headers["content-length"]) == (200, "26")


async def test_500_has_no_stack_trace(management: Api, view: MemoryView) -> None:
    """As on the public port."""
    view.broken = True
    assert b"secret" not in check(await management.get("/cluster"), 500, "internal-error").body
