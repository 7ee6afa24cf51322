"""The headroom that quotas leave, by their status, and when it has grown."""

from decimal import Decimal
from typing import Any

import pytest
from threadcluster_operator.controller.quota_headroom import has_grown, headroom_of, refused_by_quota

from tests.operator.controller.simulated import Simulation, settle


def quota(name: str, hard: dict[str, Any] | None, used: dict[str, Any] | None = None) -> dict[str, Any]:
    """A ResourceQuota, as the quota controller reports it."""
    return {"metadata": {"name": name}, "spec": {"hard": {"pods": "99"}}, "status": {"hard": hard, "used": used}}


def test_the_headroom_is_the_limit_without_what_is_used() -> None:
    """By status: the API server judges by it, and not by a spec that its controller has not read yet."""
    found = headroom_of(
        [
            quota("a", {"pods": "3", "requests.cpu": "1500m"}, {"pods": "1", "requests.cpu": "1"}),
            quota("b", {"pods": "2"}),
            quota("c", {"pods": "many", "services": "1"}, {"services": "few"}),
            quota("d", None),
            {"metadata": {"name": "e"}},
        ]
    )
    assert found == {("a", "pods"): Decimal(2), ("a", "requests.cpu"): Decimal("0.5"), ("b", "pods"): Decimal(2)}


@pytest.mark.parametrize(
    ("hard", "used", "grown"),
    [("1", "1", False), ("2", "1", True), ("1", "0", True), ("1", "2", False), ("0", "1", False)],
    ids=["the same", "raised", "given back", "used up", "lowered"],
)
def test_the_headroom_grows_by_a_higher_limit_or_by_less_use(hard: str, used: str, grown: bool) -> None:
    """Of any resource of any quota."""
    before = headroom_of([quota("a", {"pods": "1", "services": "5"}, {"pods": "1"}), quota("b", {"pods": "7"})])
    after = headroom_of([quota("a", {"pods": hard, "services": "5"}, {"pods": used}), quota("b", {"pods": "7"})])
    assert has_grown(before, after) is grown


def test_a_limit_that_is_gone_leaves_more_and_a_new_one_does_not() -> None:
    """A quota, or a resource of one."""
    one = headroom_of([quota("a", {"pods": "1"})])
    two = headroom_of([quota("a", {"pods": "1"}), quota("b", {"pods": "1"})])
    assert has_grown(two, one)
    assert not has_grown(one, two)
    assert has_grown(one, {})
    assert not has_grown({}, {})


@pytest.mark.parametrize(
    ("message", "refused"),
    [("pods is forbidden: exceeded quota: small", True), ('admission webhook "a" denied the request: no', False)],
    ids=["quota", "webhook"],
)
def test_a_controllers_own_event_tells_that_a_quota_refuses_pods(message: str, refused: bool) -> None:
    """Of the StatefulSet; without an Event nothing is refused."""
    simulation = Simulation()
    settle(simulation)
    live = simulation.stateful_set
    assert live is not None
    live["status"]["replicas"] = 2
    seen = simulation.look()
    assert not refused_by_quota(seen)
    event = {
        "kind": "Event",
        "reason": "FailedCreate",
        "message": message,
        "involvedObject": {"uid": live["metadata"]["uid"]},
        "metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"},
    }
    assert refused_by_quota(seen._replace(warnings=(event,))) is refused
