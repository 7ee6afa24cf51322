"""Rollouts on the StatefulSet controller as it is released, and on one that counts unavailable pods.

Kubernetes 1.35.0 to 1.35.3 have the feature gate MaxUnavailableStatefulSet on, and others may: their controller deletes no pod
while as many as `maxUnavailable` are unavailable, and those of a broken template are.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest

from tests.e2e.cluster.build import kubernetes
from tests.e2e.cluster.conftest import Cluster, apply_crd
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Object, reach

pytestmark = pytest.mark.cluster

GATES: Final = {"as released": "", "counting unavailable pods": "MaxUnavailableStatefulSet=true"}
_MENDED_S: Final = 30.0


@pytest.fixture(scope="module", params=list(GATES.values()), ids=list(GATES))
def gated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The tests' control plane, or one with another feature gate."""
    if not request.param:
        found: Cluster = request.getfixturevalue("cluster")
        yield found
        return
    plane = ControlPlane(tmp_path_factory.mktemp("gated"), kubernetes(), feature_gates=request.param)
    try:
        plane.start()
        found = Cluster(plane.kubeconfig, plane.audit_log)
        asyncio.run(apply_crd(found))
        yield found
    finally:
        plane.stop()


@pytest.fixture
async def harness(gated: Cluster) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace of that control plane, in which pods of one image never become ready."""
    async with reach(gated.kubeconfig, audit_log=gated.audit_log) as api:
        namespace = f"test-{secrets.token_hex(4)}"
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, namespace)
        async with harness_on(api, namespace) as made:
            made.kubelet.behave(is_broken, Behaviour(starts="crashing", exit_code=1, message="settings refused"))
            yield made


def is_broken(pod: Object) -> bool:
    """Whether it is a worker with the broken template."""
    container = pod["spec"]["containers"][0]
    return any(each.get("name") == "BROKEN" for each in container.get("env", ()))


BROKEN: Final[dict[str, Any]] = {"worker": {"env": [{"name": "BROKEN", "value": "1"}]}}
MENDED: Final = {"worker": {"env": [{"name": "MENDED", "value": "1"}]}}


async def fewest_ready(harness: Harness, generation: int, within_s: float) -> int:
    """The least number of ready workers until the cluster is Ready with this generation."""
    least = 100

    def done(found: Object) -> bool:
        nonlocal least
        least = min(least, found["status"]["readyReplicas"])
        return is_ready(found) and found["metadata"]["generation"] == generation

    await harness.until("chat", done, within_s=within_s)
    return least


async def test_workers_are_restarted_one_after_the_other(harness: Harness) -> None:
    """Whatever the controller counts, an edit and its withdrawal half-way never cost more than one worker."""
    await harness.make("chat", replicas=4)
    await harness.until("chat", is_ready)
    generation = await harness.edit("chat", MENDED)
    assert await fewest_ready(harness, generation, 60) >= 3
    await harness.edit("chat", {"worker": {"snapshotEveryEvents": 7}})
    # The ThreadCluster's status may pass over a number: it is written once a second at most.
    await harness.api.wait_for(
        "apps/v1", "StatefulSet", "chat", lambda it: it["status"].get("updatedReplicas") == 2, harness.namespace
    )
    generation = await harness.edit("chat", {"worker": {"snapshotEveryEvents": 100}})
    assert await fewest_ready(harness, generation, 60) >= 3


async def test_a_broken_template_that_is_mended(harness: Harness) -> None:
    """The first worker that gets it stops the rollout; the mended template replaces that worker first."""
    await harness.make("chat", replicas=3)
    await harness.until("chat", is_ready)
    await harness.edit("chat", BROKEN)
    found = await harness.until("chat", stalled_by("WorkerCrashLooping"))
    assert found["status"]["readyReplicas"] == 2
    generation = await harness.edit("chat", MENDED)
    assert await fewest_ready(harness, generation, _MENDED_S) >= 2


async def test_a_broken_first_template_that_is_mended(harness: Harness) -> None:
    """No worker was ever ready: all of them are what is unavailable."""
    await harness.make("chat", replicas=3, **BROKEN)
    await harness.until("chat", stalled_by("WorkerCrashLooping"))
    await harness.until("chat", lambda it: it["status"]["replicas"] == 3)
    generation = await harness.edit("chat", MENDED)
    found = await harness.until(
        "chat", lambda it: is_ready(it) and it["metadata"]["generation"] == generation, within_s=_MENDED_S
    )
    assert condition(found, "Stalled")["status"] == "False"
