"""The admission policies: what they refuse to a holder of the operator's token, and what they let pass."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from threadcluster_operator.controller.operator_key import KEY_SECRET_NAME

from tests.e2e.cluster.conftest import Cluster, apply_crd
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.harness import harness_on, is_ready
from tests.e2e.cluster.installed import WAYS, install
from tests.e2e.cluster.kubeconfig import for_token
from tests.e2e.cluster.manifests import MANIFESTS, kustomized
from tests.support.kube_api import Api, Object, Refused, reach

pytestmark = pytest.mark.cluster

OWNER: Final = {
    "apiVersion": "threadcluster.io/v1alpha1",
    "kind": "ThreadCluster",
    "name": "chat",
    "uid": "8f4c3b7a-0000-4000-8000-000000000001",
    "controller": True,
}


def secret(name: str = "chat-internal", *owners: Object, **fields: Any) -> Object:
    """A Secret; with the owner that it must have, where none is given."""
    meta = {"name": name, "ownerReferences": list(owners or (OWNER,))}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"secret": "eA=="}, **fields}


def without_owner(body: Object) -> Object:
    """The same without owner references."""
    return {**body, "metadata": {"name": body["metadata"]["name"]}}


def pods(
    kind: str = "StatefulSet", *, owner: Object | None = OWNER, container: Object | None = None, **pod: Any
) -> Object:
    """An object that makes pods, as the operator makes it but for what is given."""
    spec = {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "worker",
                "image": "threadcluster:1",
                "securityContext": {"allowPrivilegeEscalation": False},
                **(container or {}),
            }
        ],
        **pod,
    }
    template = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    meta: Object = {"name": "made"} | ({"ownerReferences": [owner]} if owner is not None else {})
    if kind == "Job":
        template["spec"]["restartPolicy"] = "Never"
        return {"apiVersion": "batch/v1", "kind": kind, "metadata": meta, "spec": {"template": template}}
    spec = {"serviceName": "a", "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


TOKEN: Final = {
    "metadata": {
        "name": "chat-internal",
        "ownerReferences": [OWNER],
        "annotations": {"kubernetes.io/service-account.name": "default"},
    }
}
REFUSED: Final[dict[str, Object]] = {
    "a token of an account": {**secret(), **TOKEN, "type": "kubernetes.io/service-account-token", "data": {}},
    "a token without an owner": {
        **without_owner(secret("token")),
        "metadata": {"name": "token", "annotations": TOKEN["metadata"]["annotations"]},
        "type": "kubernetes.io/service-account-token",
        "data": {},
    },
    "another type": secret(type="example.com/other"),
    "a bootstrap token": secret(type="bootstrap.kubernetes.io/token"),
    "no owner": without_owner(secret()),
    "another kind of owner": secret("chat-internal", {**OWNER, "kind": "Deployment", "apiVersion": "apps/v1"}),
    "an owner that controls nothing": secret("chat-internal", {**OWNER, "controller": False}),
    "another cluster's name": secret("other-internal"),
    "any other name": secret("database"),
    "another key": secret(data={"secret": "eA==", "password": "eA=="}),
    "the operator's key elsewhere": without_owner(secret(KEY_SECRET_NAME)),
    "pods without an owner": pods(owner=None),
    "a Job without an owner": pods("Job", owner=None),
    "a mounted token": pods(serviceAccountName="default", automountServiceAccountToken=True),
    "a projected token": pods(
        volumes=[{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]
    ),
    "a folder of the node": pods(volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
    "the node's network": pods(hostNetwork=True),
    "the node's processes": pods("Job", hostPID=True),
    "a container that may gain rights": pods(container={"securityContext": {"runAsUser": 1000}}),
}
ALLOWED: Final[dict[str, Object]] = {
    "the workers' Secret": secret(),
    "the users' Secret": secret("chat.client-internal", data={"internal": "eA=="}),
    "workers": pods(),
    "a migration": pods("Job", volumes=[{"name": "d", "secret": {"secretName": "database"}}]),
}


@pytest.fixture
async def plane(own_control_plane: ControlPlane) -> AsyncIterator[Api]:
    """A control plane with the operator's account, its rights and the policies."""
    await asyncio.to_thread(own_control_plane.start)
    await apply_crd(Cluster(own_control_plane.kubeconfig, own_control_plane.audit_log))
    async with reach(own_control_plane.kubeconfig, audit_log=own_control_plane.audit_log) as api:
        await install(api, WAYS[0])
        for each in kustomized(MANIFESTS / "admission"):
            await api.apply(each)
        yield api


async def test_the_operators_token_makes_what_the_operator_makes_and_nothing_else(
    plane: Api, own_control_plane: ControlPlane
) -> None:
    """By the operator's own rights, in another namespace, and in kube-system; a user is not bound by the policies."""
    token = await plane.token_of("threadcluster-system", "threadcluster-operator")
    kubeconfig = for_token(own_control_plane.folder / "operator.kubeconfig", plane.kubeconfig, token)
    async with reach(kubeconfig) as operator:
        async with asyncio.timeout(60):  # a policy is in force some time after it was made
            while await verdict(operator, REFUSED["no owner"]) == "" or await verdict(operator, pods(owner=None)) == "":
                await asyncio.sleep(0.2)
        for namespace in ("talk", "kube-system"):
            verdicts = {name: await verdict(operator, body, namespace) for name, body in REFUSED.items()}
            wrong = {name: text for name, text in verdicts.items() if "ValidatingAdmissionPolicy" not in text}
            assert wrong == {}
            refused = {
                name: text for name, body in ALLOWED.items() if (text := await verdict(operator, body, namespace))
            }
            assert refused == {}
        own_key = without_owner(secret(KEY_SECRET_NAME, data={"keys": "eA=="}))
        assert await verdict(operator, own_key, "threadcluster-system") == ""
        await plane.create(without_owner(secret("database")), "talk")
        with pytest.raises(Refused, match="ValidatingAdmissionPolicy"):
            await operator.delete("v1", "Secret", "database", "talk")
        await operator.create(secret(), "talk")
        await operator.delete("v1", "Secret", "chat-internal", "talk")
        assert await plane.find("v1", "Secret", "chat-internal", "talk") is None
    for body in REFUSED.values():
        if body["kind"] == "Secret" and body.get("type", "Opaque") == "Opaque":
            assert await verdict(plane, body, "default") == ""
    async with harness_on(
        plane, "talk", own_namespace="threadcluster-system", kubeconfig=kubeconfig, everywhere=True
    ) as harness:
        await harness.make("chat", gateway={"ingress": {"className": "nginx", "host": "chat.example"}})
        await harness.until("chat", is_ready)


async def verdict(api: Api, body: Object, namespace: str = "talk") -> str:
    """Why the API server does not make an object, in its own words; empty when it would."""
    try:
        await api.create(body, namespace, dry_run=True)
    except Refused as refusal:
        return str(refusal)
    return ""
