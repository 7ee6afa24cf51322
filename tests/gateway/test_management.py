"""The management port: probes, metrics, the cluster, and the operator's door."""

from collections.abc import AsyncIterator

import pytest

from shard_worker.gateway.management import ManagementPort
from shard_worker.gateway.metrics import RequestMetrics
from shard_worker.gateway.server import listening_socket
from tests.gateway.test_error_table import check
from tests.gateway.wire import JSON_TYPE, Api, request_bytes

SECRET = ("Authorization", "Bearer swordfish")
PLAN = b'{"planVersion": 4, "hash": "h", "targets": [{"shard": 0, "target": "w-0", "reason": "up"}]}'


class View:
    """A cluster of words."""

    def __init__(self) -> None:
        self.why_not: str | None = None
        self.targets: object = None
        self.broken = False

    def fault(self) -> str | None:
        return self.why_not

    def ready(self) -> str | None:
        return self.why_not

    def cluster(self) -> dict[str, object]:
        if self.broken:
            raise RuntimeError("inner secret")
        return {"workers": [], "shards": []}

    def ownership(self) -> dict[str, object]:
        return {"planVersion": 4}

    def plan_version(self) -> int:
        return 4

    async def set_targets(self, version: int, plan_hash: str, targets: list[tuple[int, str | None, str]]) -> int | None:
        if version != 4:
            return None
        self.targets = (plan_hash, targets)
        return 5


@pytest.fixture
def view() -> View:
    """What the worker would know."""
    return View()


@pytest.fixture
async def management(view: View) -> AsyncIterator[Api]:
    """A client of a management port."""
    metrics = RequestMetrics()
    metrics.observe("getThread", 200, 0.003)
    metrics.observe("getThread", 404, 20.0)
    port = ManagementPort(view, b"swordfish", metrics)
    with listening_socket("127.0.0.1", 0) as bound:
        await port.start([bound])
        yield Api(bound.getsockname()[1])
        port.close()


def put(body: bytes, *headers: tuple[str, str]) -> bytes:
    """PUT the targets."""
    return request_bytes("PUT", "/internal/v1/targets", headers=(JSON_TYPE, *headers), body=body)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_say_why_not(management: Api, view: View, path: str) -> None:
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
    [(), (("Authorization", "Bearer sword"),), (("Authorization", "swordfish"),), (SECRET, SECRET)],
    ids=["none", "wrong", "bare", "twice"],
)
async def test_401_without_the_secret(management: Api, view: View, headers: tuple[tuple[str, str], ...]) -> None:
    """Nothing under /internal is shown or taken, not even whether it exists."""
    check(await management.get("/internal/v1/ownership", *headers), 401, "unauthorized")
    check(await management.get("/internal/v1/nothing", *headers), 401, "unauthorized")
    check(await management.send(put(PLAN, *headers)), 401, "unauthorized")
    assert view.targets is None


async def test_ownership_for_who_plans(management: Api) -> None:
    """As the worker sees it."""
    assert (await management.get("/internal/v1/ownership", SECRET)).json == {"planVersion": 4}


async def test_targets_are_taken_from_the_newest_plan_alone(management: Api, view: View) -> None:
    """Compare-and-set: a plan made from an older one is stale."""
    answered = await management.send(put(PLAN, SECRET))
    assert (answered.status, answered.json) == (200, {"planVersion": 5})
    assert view.targets == ("h", [(0, "w-0", "up")])
    stale = await management.send(put(PLAN.replace(b"4", b"3"), SECRET))
    check(stale, 409, "plan-stale")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        PLAN.replace(b"4", b'"4"'),
        PLAN.replace(b'"h"', b'"h", "x": 1'),
        PLAN.replace(b"{", b'{"hash": "h",', 1),
    ],
)
async def test_400_a_plan_of_another_shape(management: Api, view: View, body: bytes) -> None:
    """Nothing is taken by halves."""
    check(await management.send(put(body, SECRET)), 400, "validation-failed")
    assert view.targets is None


async def test_400_a_plan_that_is_not_json(management: Api) -> None:
    """As on the public port."""
    check(await management.send(put(b"{", SECRET)), 400, "malformed-json")


async def test_paths_and_methods_are_exact(management: Api) -> None:
    """As on the public port."""
    check(await management.get("/livez/"), 404, "route-not-found")
    answered = check(await management.send(request_bytes("POST", "/livez")), 405, "method-not-allowed")
    assert answered.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await management.send(request_bytes("OPTIONS", "/metrics"))).status == 204
    head = await management.send(request_bytes("HEAD", "/cluster"), head=True)
    assert (head.status, head.headers["content-length"]) == (200, "26")


async def test_500_has_no_stack_trace(management: Api, view: View) -> None:
    """As on the public port."""
    view.broken = True
    assert b"secret" not in check(await management.get("/cluster"), 500, "internal-error").body


def test_an_empty_secret_is_refused() -> None:
    """It would let everybody in."""
    with pytest.raises(ValueError, match="secret"):
        ManagementPort(View(), b"")
