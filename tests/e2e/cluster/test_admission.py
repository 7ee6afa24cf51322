"""Admission rules that rewrite objects are lived with, on a real API server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.e2e.cluster.admission_webhook import Patch, webhook
from tests.e2e.cluster.control_plane import writes_in
from tests.e2e.cluster.harness import KIND, Harness, harness_on, is_ready
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster

_REST_S: Final = 12.0
"""Over a full listing of the tests' operator."""
MIRROR: Final = "mirror.example/"


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


def mirrored(body: Object) -> Patch:
    """Images come from a mirror, and pods tolerate everything."""
    spec = body["spec"]["template"]["spec"]
    image = spec["containers"][0]["image"]
    if image.startswith(MIRROR):
        return []
    return [
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": MIRROR + image},
        {"op": "replace", "path": "/spec/template/spec/tolerations", "value": [{"operator": "Exists"}]},
    ]


async def test_a_rule_that_rewrites_the_workers_template(harness: Harness) -> None:
    """The cluster becomes Ready, is not written to at rest, and rolls out an edit one worker after the other; the fields are
    named once.
    """
    api, where = harness.api, harness.namespace
    async with webhook(api, f"mirror-{where}") as hook:
        hook.rewrites = mirrored
        await hook.register(where, "apps", ["statefulsets"], kind="Mutating")
        await harness.make("chat", replicas=3)
        await harness.until("chat", is_ready)
        await asyncio.sleep(_REST_S / 4)  # the last of its Events may still be written
        before = writes_in(api, where) if api.audit_log is not None else []
        await asyncio.sleep(_REST_S)  # that nothing happens has no end to wait for
        assert before == (writes_in(api, where) if api.audit_log is not None else [])
        least = 3
        generation = await harness.edit("chat", {"image": "threadcluster:2"})

        def done(found: Object) -> bool:
            nonlocal least
            least = min(least, found["status"]["readyReplicas"])
            return is_ready(found) and found["metadata"]["generation"] == generation

        await harness.until("chat", done, within_s=60)
        assert least >= 2
        for pod in await api.list("v1", "Pod", where, labels="app.kubernetes.io/component=worker"):
            assert pod["spec"]["containers"][0]["image"] == f"{MIRROR}threadcluster:2"
        found = [each for each in await api.list("v1", "Event", where) if each["reason"] == "ChangedByAdmission"]
        assert [each["count"] for each in found] == [1]
        assert "spec.template.spec.containers.image" in found[0]["message"]
        assert found[0]["involvedObject"]["kind"] == KIND


async def test_a_container_that_is_put_beside_the_migration(harness: Harness) -> None:
    """The migration is complete when its own container is; the Job, which would never end, is deleted after it."""
    api, where = harness.api, harness.namespace

    def migrates(pod: Object) -> bool:
        return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "migration")

    def with_sidecar(body: Object) -> Patch:
        spec = body["spec"]["template"]["spec"] if "template" in body["spec"] else body["spec"]
        if any(each["name"] == "proxy" for each in spec["containers"]):
            return []
        path = "/spec/template/spec/containers/0" if "template" in body["spec"] else "/spec/containers/0"
        return [{"op": "add", "path": path, "value": {"name": "proxy", "image": "proxy:1"}}]

    harness.kubelet.behave(migrates, Behaviour(runs_on=("proxy",)))
    async with webhook(api, f"sidecar-{where}") as hook:
        hook.rewrites = lambda body: with_sidecar(body) if migrates(body) else []
        await hook.register(where, "", ["pods"], kind="Mutating")
        await harness.make("chat")
        await harness.until("chat", is_ready)
        async with asyncio.timeout(30):
            while await api.list("batch/v1", "Job", where):
                await asyncio.sleep(0.1)
        await harness.until("chat", is_ready)
