"""Objects of the operator on a real API server: accepted, without drift afterwards, and open to edits."""

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from threadcluster_operator.render import Object, RenderInput, differences, is_applied

from tests.e2e.cluster.installed import service_monitors
from tests.support.kube_api import Api, Refused
from tests.support.rendered_clusters import EVERYTHING, LEAST, all_objects, cluster, find

pytestmark = pytest.mark.cluster

CLUSTERS = pytest.mark.parametrize("spec", [LEAST, EVERYTHING], ids=["least", "everything"])
ENFORCE = "pod-security.kubernetes.io/enforce"


@pytest.fixture
async def owner(api: Api, namespace: str) -> AsyncIterator[Object]:
    """The ThreadCluster that the objects belong to: without one the garbage collector takes them away."""
    async with service_monitors(api):
        yield await api.apply(
            {
                "apiVersion": "threadcluster.io/v1alpha1",
                "kind": "ThreadCluster",
                "metadata": {"name": "chat", "namespace": namespace},
                "spec": LEAST,
            }
        )


def of(owner: Object, spec: dict[str, Any], **changes: Any) -> RenderInput:
    """The cluster of this owner."""
    metadata = owner["metadata"]
    return cluster(spec, namespace=metadata["namespace"], uid=metadata["uid"], **changes)


async def live(api: Api, made: Object) -> Object:
    """An object as it is stored."""
    metadata = made["metadata"]
    return await api.get(made["apiVersion"], made["kind"], metadata["name"], metadata["namespace"])


@CLUSTERS
async def test_every_object_is_taken_and_is_then_as_wanted(api: Api, owner: Object, spec: dict[str, Any]) -> None:
    """Whatever the API server adds, however it writes quantities: nothing is applied a second time."""
    for made in all_objects(of(owner, spec)):
        await api.apply(made)
        assert differences(made, await live(api, made)) == [], made["kind"]


async def test_an_edit_of_everything_can_be_applied(api: Api, owner: Object) -> None:
    """Nothing that cannot be changed is changed, there and back again; a Job is not changed, another is made."""
    for spec, changes in ((LEAST, {}), (EVERYTHING, {"replicas": 7, "partition": 3}), (LEAST, {})):
        for made in all_objects(of(owner, spec, **changes)):
            await api.apply(made)
            assert is_applied(made, await live(api, made)), made["kind"]


async def test_what_is_wanted_no_more_is_taken_away_by_applying(api: Api, owner: Object) -> None:
    """A node selector, a variable, an annotation that the user took back leave nothing behind."""
    for made in all_objects(of(owner, EVERYTHING)):
        await api.apply(made)
    wanted = find(of(owner, LEAST), "StatefulSet")
    before = await live(api, wanted)
    assert not is_applied(wanted, before)
    await api.apply(wanted)
    spec = (await live(api, wanted))["spec"]["template"]["spec"]
    assert "nodeSelector" not in spec
    assert "affinity" not in spec
    assert "priorityClassName" not in spec
    assert "TZ" not in {each["name"] for each in spec["containers"][0]["env"]}
    await api.apply(find(of(owner, LEAST), "Service", "chat"))
    service = await live(api, find(of(owner, LEAST), "Service", "chat"))
    assert "loadBalancerClass" not in service["spec"]


@CLUSTERS
async def test_drift_is_seen_and_mended(api: Api, owner: Object, spec: dict[str, Any]) -> None:
    """Another manager edits the operator's objects."""
    wanted = find(of(owner, spec), "StatefulSet")
    await api.apply(wanted)
    drifted = copy.deepcopy(wanted["spec"]["template"]["spec"]["containers"][0])
    drifted["image"] = "somebody-elses"
    patch = {"spec": {"minReadySeconds": 1, "template": {"spec": {"containers": [drifted]}}}}
    await api.patch("apps/v1", "StatefulSet", "chat", patch, owner["metadata"]["namespace"], how="strategic")
    assert set(differences(wanted, await live(api, wanted))) == {
        "spec.minReadySeconds",
        "spec.template.spec.containers.image",
    }
    await api.apply(wanted)
    assert is_applied(wanted, await live(api, wanted))


async def test_a_second_apply_of_the_same_changes_nothing(api: Api, owner: Object) -> None:
    """Neither the generation nor, of objects without another writer, the resource version."""
    for made in all_objects(of(owner, EVERYTHING)):
        first = await api.apply(made)
        second = await api.apply(made)
        mark = "generation" if "generation" in first["metadata"] else "resourceVersion"  # a status counts as a version
        assert first["metadata"][mark] == second["metadata"][mark], made["kind"]


@CLUSTERS
async def test_the_pods_are_allowed_where_the_restricted_standard_is_enforced(
    api: Api, owner: Object, spec: dict[str, Any]
) -> None:
    """Workers' and migration's; a pod that breaks it is refused, so the check is real."""
    namespace = owner["metadata"]["namespace"]
    await api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {ENFORCE: "restricted"}}})
    for kind in ("StatefulSet", "Job"):
        template = find(of(owner, spec), kind)["spec"]["template"]
        bare = {
            key: value
            for key, value in template["spec"].items()
            if key not in ("priorityClassName", "serviceAccountName")
        }
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "one", "namespace": namespace},
            "spec": bare,
        }
        await api.apply(pod, dry_run=True)
        pod["spec"] = {**bare, "hostNetwork": True}
        with pytest.raises(Refused, match="PodSecurity"):
            await api.apply(pod, dry_run=True)
