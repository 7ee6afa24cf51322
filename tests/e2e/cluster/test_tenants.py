"""Refusals of an operator with flags on a real API server, and the NetworkPolicy that it makes."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from threadcluster_operator.controller.tenant_policy import TenantPolicy

from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.support.kube_api import Api

pytestmark = pytest.mark.cluster

POLICY: Final = TenantPolicy(
    images=("threadcluster",),
    service_types=("ClusterIP",),
    annotations=("example.com/*",),
    priority_classes=("",),
)
BEYOND: Final[dict[str, dict[str, Any]]] = {
    "spec.image": {"image": "elsewhere.example/threadcluster:1"},
    "spec.gateway.service.type": {"gateway": {"service": {"type": "NodePort"}}},
    "spec.gateway.service.annotations.other.example/lb": {
        "gateway": {"service": {"annotations": {"other.example/lb": "x"}}}
    },
    "spec.gateway.ingress.annotations.other.example/a": {
        "gateway": {"ingress": {"host": "chat.example", "annotations": {"other.example/a": "x"}}}
    },
    "spec.podTemplate.metadata.annotations.other.example/b": {
        "podTemplate": {"metadata": {"annotations": {"other.example/b": "x"}}}
    },
    "spec.podTemplate.spec.priorityClassName": {"podTemplate": {"spec": {"priorityClassName": "system-node-critical"}}},
    "spec.podTemplate.spec.securityContext.runAsUser": {"podTemplate": {"spec": {"securityContext": {"runAsUser": 0}}}},
    "spec.podTemplate.spec.securityContext.seccompProfile.type": {
        "podTemplate": {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}
    },
}


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator with flags, and a fake kubelet in a namespace."""
    async with harness_on(api, namespace, tenants=POLICY) as made:
        yield made


async def test_each_bound_is_refused_by_its_field_and_nothing_of_the_edit_is_applied(harness: Harness) -> None:
    """The cluster goes on as it was, and is Ready again when the edit is taken back."""
    await harness.make("chat", podTemplate={"metadata": {"annotations": {"example.com/team": "chat"}}})
    await harness.until("chat", is_ready)
    where = harness.namespace
    before = await harness.api.get("apps/v1", "StatefulSet", "chat", where)
    for field, edit in BEYOND.items():
        generation = await harness.edit("chat", edit)
        found = await harness.until(
            "chat",
            lambda it, generation=generation: (
                stalled_by("SpecInvalid")(it)  # type: ignore[misc]  # bound at once
                and it["status"]["observedGeneration"] == generation
            ),
        )
        assert condition(found, "Stalled")["message"].startswith(f"{field}: "), condition(found, "Stalled")
        after = await harness.api.get("apps/v1", "StatefulSet", "chat", where)
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        await harness.edit("chat", undo(edit) | ({"image": "threadcluster:1"} if "image" in edit else {}))
        await harness.until("chat", is_ready)


async def test_the_network_is_the_namespaces_own_by_default(harness: Harness) -> None:
    """As the API server keeps the policy; monitoring comes in by name."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    policy = await harness.api.get("networking.k8s.io/v1", "NetworkPolicy", "chat", harness.namespace)
    public, management = policy["spec"]["ingress"]
    assert public["from"] == [{"podSelector": {}}]
    assert len(management["from"]) == 2
    await harness.edit("chat", {"networkPolicy": {"monitoringFrom": [peer]}})
    await harness.api.wait_for(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "chat",
        lambda it: peer in it["spec"]["ingress"][1]["from"],
        harness.namespace,
    )


def undo(edit: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that takes out what another one put in; parts that nothing else of the cluster has, as a whole."""
    return {
        name: undo(value) if isinstance(value, dict) and name not in ("ingress", "securityContext") else None
        for name, value in edit.items()
    }
