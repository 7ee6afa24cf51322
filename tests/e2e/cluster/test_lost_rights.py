"""An operator that loses a right, on a real API server: it goes on with all that it still may do."""

import copy
from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.e2e.cluster.conftest import KubeconfigFor
from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.e2e.cluster.manifests import MANIFESTS, kustomized
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster

ACCOUNT: Final = "operator"
NAMED_S: Final = 10.0
HEALED_S: Final = 10.0


def role(namespace: str, *, without: tuple[str, str] | None = None) -> Object:
    """The operator's role for one namespace, without one verb on one resource."""
    rules = [
        copy.deepcopy(rule)
        for each in kustomized(MANIFESTS / "overlays" / "namespaced")
        if each["kind"] == "Role" and each["metadata"]["name"].startswith("threadcluster-operator")
        for rule in each["rules"]
    ]
    for rule in rules:
        if rule["resources"] == ["namespaces"]:  # of the namespace that identifies the Kubernetes cluster
            rule["resourceNames"] = [namespace]
    if without is not None:
        resource, verb = without
        for rule in [rule for rule in rules if resource in rule["resources"]]:
            rule["resources"].remove(resource)
            rules.append({**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": ACCOUNT, "namespace": namespace},
        "rules": [rule for rule in rules if rule["resources"] and rule["verbs"]],
    }


@pytest.fixture
async def harness(api: Api, namespace: str, kubeconfig_for: KubeconfigFor) -> AsyncIterator[Harness]:
    """An operator with an account of its own, and a fake kubelet, in a namespace."""
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    await api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}, namespace)
    await api.apply(role(namespace))
    await api.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": ACCOUNT, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
            "subjects": [account],
        }
    )
    kubeconfig = await kubeconfig_for(namespace, ACCOUNT)
    async with harness_on(api, namespace, kubeconfig=kubeconfig) as made:
        yield made


async def test_a_right_that_is_lost_stops_only_what_needs_it(harness: Harness) -> None:
    """The Service stays as it is, the workers are scaled; with the right everything is as wanted again."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    await harness.api.apply(role(harness.namespace, without=("services", "patch")))
    await harness.edit("chat", {"replicas": 3, "gateway": {"service": {"port": 81}}})
    found = await harness.until("chat", stalled_by("Forbidden"), within_s=NAMED_S)
    assert 'cannot patch resource "services"' in condition(found, "Stalled")["message"]
    found = await harness.until("chat", lambda it: it["status"]["readyReplicas"] == 3)
    await harness.until("chat", lambda it: condition(it, "Available")["status"] == "True")
    await harness.api.apply(role(harness.namespace))
    await harness.until("chat", is_ready, within_s=HEALED_S)


async def test_a_cluster_whose_secrets_cannot_be_made_has_a_status(harness: Harness) -> None:
    """Everything else is made; with the right the cluster becomes Ready."""
    await harness.api.wait_for("v1", "Secret", "threadcluster-operator-key", lambda _: True, harness.namespace)
    await harness.api.apply(role(harness.namespace, without=("secrets", "create")))
    await harness.make("chat")
    found = await harness.until("chat", stalled_by("Forbidden"), within_s=NAMED_S)
    assert 'cannot create resource "secrets"' in condition(found, "Stalled")["message"]
    await harness.api.wait_for("v1", "Service", "chat", lambda _: True, harness.namespace)
    await harness.api.apply(role(harness.namespace))
    await harness.until("chat", is_ready, within_s=HEALED_S)
