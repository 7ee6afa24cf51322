"""A dry run of `kubectl apply -k` on a real API server, which stores nothing of it."""

from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster.manifests import MANIFESTS, kustomized
from tests.support.kube_api import Api, Object, Refused

pytestmark = pytest.mark.cluster

FOLDERS: Final = sorted(file.parent for file in MANIFESTS.rglob("kustomization.yaml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
async def test_the_api_server_takes_every_object(api: Api, namespace: str, folder: Path) -> None:
    """With no field that it does not know; what lives in a namespace is tried in one that is there."""
    for made in kustomized(folder):
        if "namespace" in made["metadata"]:
            made["metadata"]["namespace"] = namespace
        await api.apply(made, dry_run=True)


async def test_a_namespace_alone_gets_nothing_outside_of_it() -> None:
    """A user without rights outside of the namespace can install it; the rights are the same, but for the namespace that
    identifies the Kubernetes cluster.
    """
    made = kustomized(MANIFESTS / "overlays" / "namespaced")
    assert {each["metadata"].get("namespace") for each in made} == {"chat"}
    [role] = [each for each in made if each["metadata"]["name"] == "threadcluster-operator" and each["kind"] == "Role"]
    whole = next(
        each
        for each in kustomized(MANIFESTS / "base")
        if each["kind"] == "ClusterRole" and each["metadata"]["name"] == role["metadata"]["name"]
    )
    identity = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}
    differing = [pair for pair in zip(role["rules"], whole["rules"], strict=True) if pair[0] != pair[1]]
    assert differing == [(identity | {"resourceNames": ["chat"]}, identity | {"resourceNames": ["kube-system"]})]
    bindings = [each for each in made if each["kind"] == "RoleBinding"]
    assert {each["roleRef"]["kind"] for each in bindings} == {"Role"}
    assert {subject["namespace"] for each in bindings for subject in each["subjects"]} == {"chat"}
    [deployment] = [each for each in made if each["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["--namespace", "$(POD_NAMESPACE)", "--identity-namespace", "$(POD_NAMESPACE)"]


async def test_the_pods_are_allowed_where_the_restricted_standard_is_enforced(api: Api, namespace: str) -> None:
    """The operator's own namespace enforces it; a pod that breaks it is refused there, so the check is real."""
    await api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {ENFORCE: "restricted"}}})
    made = kustomized(MANIFESTS / "overlays" / "kind")
    for owner in (each for each in made if each["kind"] in ("Deployment", "StatefulSet")):
        template = owner["spec"]["template"]
        template["spec"].pop("serviceAccountName", None)
        volumes = [volume for volume in template["spec"].get("volumes", ()) if "emptyDir" in volume]
        known = {volume["name"] for volume in volumes}
        [container] = template["spec"]["containers"]
        container["volumeMounts"] = [each for each in container.get("volumeMounts", ()) if each["name"] in known]
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": owner["metadata"]["name"], "namespace": namespace},
            "spec": {**template["spec"], "volumes": volumes},
        }
        await api.apply(pod, dry_run=True)
        del container["securityContext"]["capabilities"]
        with pytest.raises(Refused, match="PodSecurity"):
            await api.apply(pod, dry_run=True)


ENFORCE: Final = "pod-security.kubernetes.io/enforce"
