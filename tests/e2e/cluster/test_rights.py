"""The operator's rights: what it does on a real API server is what its role grants, no more and no less.

It runs as its own service account, with the roles as they are installed.  Everything that it ever asks for is provoked
once, and the API server's own log is what is judged.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import pytest
from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller import events, secret_keeper
from threadcluster_operator.render import RenderInput, migration_job

from tests.e2e.cluster.conftest import Cluster, apply_crd
from tests.e2e.cluster.control_plane import ControlPlane, read_audit
from tests.e2e.cluster.harness import Harness, harness_on, is_ready, stalled_by
from tests.e2e.cluster.installed import WAYS, Way, install, service_monitors
from tests.e2e.cluster.kubeconfig import for_token
from tests.support.kube_api import Api, Object, reach

pytestmark = pytest.mark.cluster

NEVER_CALLED: Final = {("threadcluster.io", "threadclusters/finalizers", "update")}
"""Rights that another part of Kubernetes checks; see manifests/base/rights.yaml."""

INGRESS: Final = {"className": "nginx", "host": "chat.example"}
CHILDREN: Final = (
    ("networking.k8s.io/v1", "NetworkPolicy", ""),
    ("v1", "Service", ""),
    ("policy/v1", "PodDisruptionBudget", ""),
    ("apps/v1", "StatefulSet", ""),
    ("networking.k8s.io/v1", "Ingress", ""),
    ("monitoring.coreos.com/v1", "ServiceMonitor", ""),
)
"""Every kind of child that is put right, with the end of its name."""
SECRET: Final = ("v1", "Secret", "-internal")
"""Made and deleted, and never read or changed."""
KEY: Final = "threadcluster-operator-key"
_POD: Final[Object] = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
FOREIGN: Final[dict[str, Object]] = {
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "Service": {"spec": {"ports": [{"port": 1}]}},
    "PodDisruptionBudget": {"spec": {"minAvailable": 0}},
    "StatefulSet": {
        "spec": {"replicas": 0, "serviceName": "a", "selector": {"matchLabels": {"a": "b"}}, "template": _POD}
    },
    "Ingress": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 1}}}}},
    "ServiceMonitor": {"spec": {}},
    "Secret": {},
    "Job": {"spec": {"suspend": True, "template": {"spec": {**_POD["spec"], "restartPolicy": "Never"}}}},
}
"""Objects of another owner, by kind."""


@pytest.fixture
async def plane(own_control_plane: ControlPlane) -> AsyncIterator[Api]:
    """A control plane for this test alone, that knows ThreadClusters and ServiceMonitors."""
    await asyncio.to_thread(own_control_plane.start)
    await apply_crd(Cluster(own_control_plane.kubeconfig, own_control_plane.audit_log))
    reached = reach(own_control_plane.kubeconfig, audit_log=own_control_plane.audit_log)
    async with reached as api, service_monitors(api):
        yield api


@pytest.mark.parametrize("way", WAYS, ids=["everywhere", "namespaced"])
async def test_it_uses_all_of_its_rights_and_needs_no_others(
    plane: Api, own_control_plane: ControlPlane, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a whole life with everything that can go wrong on the way; in one namespace nothing outside is touched."""
    monkeypatch.setattr(secret_keeper, "_CHECK_S", 1.0)
    monkeypatch.setattr(events, "_AGAIN_S", 0.0)
    installed = await install(plane, way)
    token = await plane.token_of(way.own_namespace, "threadcluster-operator")
    kubeconfig = for_token(own_control_plane.folder / "operator.kubeconfig", plane.kubeconfig, token)
    where = way.watched or "talk"
    async with harness_on(
        plane,
        where,
        own_namespace=way.own_namespace,
        kubeconfig=kubeconfig,
        everywhere=way.watched is None,
    ) as harness:
        await live(harness)
        await asyncio.gather(
            *(meet(harness, version, kind, f"{kind.lower()}{end}") for version, kind, end in (*CHILDREN, SECRET)),
            meet_job(harness, way),
        )
    used, refused = asked(own_control_plane, way)
    assert refused == []
    assert used - granted(installed) == set()
    assert granted(installed) - used == NEVER_CALLED
    assert secrets_read(own_control_plane, way) == {(way.own_namespace, KEY)}


async def live(harness: Harness) -> None:
    """One cluster: made, put right, edited, with another image, deleted."""
    await harness.make("chat", gateway={"ingress": INGRESS})
    await harness.until("chat", is_ready)
    for _ in range(2):  # the second time the same Events are counted up
        await asyncio.gather(*(spoil(harness, version, kind, f"chat{end}") for version, kind, end in CHILDREN))
    await harness.until("chat", is_ready)
    await harness.edit(
        "chat",
        {
            "gateway": {"ingress": None},
            "networkPolicy": {"mode": "Off"},
            "monitoring": {"serviceMonitor": "Disabled"},
            "image": "threadcluster:2",
        },
    )
    for version, kind in (
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("networking.k8s.io/v1", "Ingress"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ):
        await harness.api.wait_gone(version, kind, "chat", harness.namespace)
    await harness.until("chat", is_ready, within_s=60)
    await refuse(harness)
    # Without a worker that could hold the old one, the secret is replaced at once.
    await harness.edit("chat", {"replicas": 0, "secretGeneration": 2})
    await harness.until("chat", lambda it: secret_of(it) == ([2], True), within_s=60)
    await harness.api.delete("threadcluster.io/v1alpha1", "ThreadCluster", "chat", harness.namespace)


def secret_of(found: Object) -> tuple[list[int], bool]:
    """The generations of the values that the status says the Secrets hold, and whether they were made."""
    secret = found["status"]["secret"]
    return [each["generation"] for each in secret["values"]], secret["made"]


async def refuse(harness: Harness) -> None:
    """A quota refuses a worker's pod, until it is gone."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await harness.api.create(quota, harness.namespace)
    await harness.api.wait_for("v1", "ResourceQuota", "none", lambda it: it["status"].get("hard"), harness.namespace)
    await harness.edit("chat", {"replicas": 3})
    await harness.until("chat", stalled_by("QuotaExceeded"))
    await harness.api.delete("v1", "ResourceQuota", "none", harness.namespace)
    await harness.until("chat", is_ready, within_s=60)


async def spoil(harness: Harness, version: str, kind: str, name: str) -> None:
    """A user changes a child's label; the operator reverts it."""
    drift = {"metadata": {"labels": {"app.kubernetes.io/component": "spoilt"}}}
    await harness.api.patch(version, kind, name, drift, harness.namespace)
    await harness.api.wait_for(
        version,
        kind,
        name,
        lambda found: found["metadata"]["labels"]["app.kubernetes.io/component"] != "spoilt",
        harness.namespace,
    )


async def meet(harness: Harness, version: str, kind: str, name: str) -> None:
    """An object of that kind and name, of another owner, is left as it is."""
    foreign = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **FOREIGN[kind]}
    before = await harness.api.create(foreign, harness.namespace)
    await harness.make(kind.lower(), gateway={"ingress": INGRESS})
    await harness.until(kind.lower(), stalled_by("NameConflict"))
    after = await harness.api.get(version, kind, name, harness.namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"].get("ownerReferences") is None


async def meet_job(harness: Harness, way: Way) -> None:
    """As `meet`; the name of the Job follows from the cluster's uid, so the cluster is made first, and paused."""
    await harness.make("job", gateway={"ingress": INGRESS}, paused=True)
    made = await harness.until("job", stalled_by("NotStalled"))
    site = await harness.api.get("v1", "Namespace", way.watched or "kube-system")
    wanted = RenderInput(
        "job", harness.namespace, made["metadata"]["uid"], parse_spec(made), 0, 0, "", site=site["metadata"]["uid"]
    )
    name = migration_job(wanted)["metadata"]["name"]
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, **FOREIGN["Job"]}
    before = await harness.api.create(foreign, harness.namespace)
    await harness.edit("job", {"paused": False})
    await harness.until("job", stalled_by("NameConflict"))
    after = await harness.api.get("batch/v1", "Job", name, harness.namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"].get("ownerReferences") is None


def secrets_read(plane: ControlPlane, way: Way) -> set[tuple[str, str]]:
    """Namespace and name of every Secret that the operator has read."""
    user = f"system:serviceaccount:{way.own_namespace}:threadcluster-operator"
    return {
        (about["namespace"], about["name"])
        for entry in read_audit(plane.audit_log, user=user)
        if (about := entry.get("objectRef")) is not None
        and about["resource"] == "secrets"
        and entry["verb"] not in ("create", "delete")
    }


def granted(made: Iterable[Object]) -> set[tuple[str, str, str]]:
    """Rights that the operator's roles grant: group, resource, verb."""
    return {
        (group, resource, verb)
        for each in made
        if each["kind"] in ("ClusterRole", "Role") and each["metadata"]["name"].startswith("threadcluster-operator")
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(plane: ControlPlane, way: Way) -> tuple[set[tuple[str, str, str]], list[Any]]:
    """Requests of the operator to the API server, and the refused ones."""
    used: set[tuple[str, str, str]] = set()
    refused = []
    user = f"system:serviceaccount:{way.own_namespace}:threadcluster-operator"
    for entry in read_audit(plane.audit_log, user=user):
        about = entry.get("objectRef")
        if about is None:
            continue  # discovery of kinds: open to every user
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        used.add((about.get("apiGroup", ""), resource, entry["verb"]))
        if entry["responseStatus"]["code"] in (401, 403) or way.watched not in (None, about.get("namespace")):
            refused.append((entry["verb"], about, entry["responseStatus"]))
    return used, refused
