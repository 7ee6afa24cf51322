"""After any edit Ready follows its effect; and a cluster at rest is left alone."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.cluster.control_plane import writes_in
from tests.e2e.cluster.harness import Harness, harness_on, is_ready
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster

REST_S = 25.0
"""A look is due every ten seconds, a full listing on this harness every eight."""


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


def some_edit(chance: random.Random, spec: Object) -> dict[str, Any]:
    """One of the things that people change."""
    return chance.choice(
        [
            {"replicas": chance.choice([each for each in range(1, 5) if each != spec["replicas"]])},
            {"worker": {"snapshotEveryEvents": chance.randint(10, 99)}},
            {"image": f"threadcluster:{chance.randint(1, 9)}"},
            {"podTemplate": {"metadata": {"labels": {"team": f"t{chance.randint(1, 99)}"}}}},
            {"gateway": {"service": {"port": chance.randint(80, 99)}}},
            {"networkPolicy": {"mode": chance.choice(["Off", "Ingress"])}},
        ]
    )


async def check_effect(harness: Harness, found: Object) -> None:
    """Everything that the present spec says is so, on every pod and in every object."""
    spec, where = found["spec"], harness.namespace
    pods = await harness.api.list("v1", "Pod", where, labels="app.kubernetes.io/component=worker")
    assert {pod["metadata"]["name"] for pod in pods} == {f"chat-{number}" for number in range(spec["replicas"])}
    for pod in pods:
        container = pod["spec"]["containers"][0]
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert container["image"] == spec["image"]
        assert env["SHARD_WORKER_SNAPSHOT_EVERY_EVENTS"] == str(spec["worker"].get("snapshotEveryEvents", 100))
        labels = spec.get("podTemplate", {}).get("metadata", {}).get("labels", {})
        assert pod["metadata"]["labels"].items() >= labels.items()
        assert {each["type"]: each["status"] for each in pod["status"]["conditions"]}["Ready"] == "True"
    service = await harness.api.get("v1", "Service", "chat", where)
    assert [each["port"] for each in service["spec"]["ports"]] == [spec["gateway"]["service"].get("port", 80)]
    policy = await harness.api.find("networking.k8s.io/v1", "NetworkPolicy", "chat", where)
    assert (policy is None) == (spec["networkPolicy"]["mode"] == "Off")


async def edit_and_wait(harness: Harness, seed: int, edits: int) -> None:
    """Edit again and again, at times before the edit before is done."""
    chance = random.Random(seed)
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    for number in range(edits):
        if number % 20 == 0:
            print(f"{number} of {edits} edits are done")
        spec = (await harness.look("chat"))["spec"]
        edit = some_edit(chance, spec)
        generation = await harness.edit("chat", edit)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random())
            continue
        found = await harness.until("chat", is_ready, within_s=90)
        assert found["metadata"]["generation"] >= generation, f"seed {seed}, edit {number}: {edit}"
        await check_effect(harness, found)
        assert sum(len(workers.owned_by(f"chat-{ordinal}")) for ordinal in range(found["spec"]["replicas"])) == 16


async def test_ready_is_never_reported_before_an_edit_took_effect(harness: Harness) -> None:
    """Twenty edits, of every kind, in an order that a seed gives."""
    await edit_and_wait(harness, 1, 20)


@pytest.mark.soak
@pytest.mark.timeout(2_400)
async def test_ready_is_never_reported_before_any_of_many_edits_took_effect(harness: Harness) -> None:
    """The same, two hundred times."""
    await edit_and_wait(harness, 2, 200)


async def test_a_cluster_at_rest_is_never_written_to(harness: Harness) -> None:
    """Over several looks and a full listing; by the resource's version, and by the API server's log where it is ours."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    await asyncio.sleep(REST_S / 5)  # the last of its Events may still be written
    version = (await harness.look("chat"))["metadata"]["resourceVersion"]
    before = writes_in(harness.api, harness.namespace) if harness.api.audit_log is not None else []
    await asyncio.sleep(REST_S)  # that nothing happens has no end to wait for
    assert (await harness.look("chat"))["metadata"]["resourceVersion"] == version
    if harness.api.audit_log is not None:
        assert before
        assert writes_in(harness.api, harness.namespace) == before
