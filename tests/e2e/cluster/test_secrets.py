"""The Secrets of clusters on a real API server: made again as they were, rotated in steps, by the operator's key and without it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from threadcluster_operator.controller import operator_key, secret_keeper
from threadcluster_operator.controller.operator_key import KEY_FIELD, KEY_SECRET_NAME

from shard_worker.contract_tls import fingerprint, parse_secrets
from tests.e2e.cluster.harness import Harness, harness_on, is_ready, stalled_by
from tests.fakes.worker_api import MemoryWorkers
from tests.support.kube_api import Api, Object
from tests.support.polling import eventually

pytestmark = pytest.mark.cluster

NAME = "chat-internal"


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


async def held(harness: Harness) -> tuple[str, ...]:
    """Fingerprints of the values in the Secret; none while it is being replaced."""
    found = await harness.api.find("v1", "Secret", NAME, harness.namespace)
    if found is None:
        return ()
    return tuple(fingerprint(value) for value in parse_secrets(base64.b64decode(found["data"]["secret"])))


@asynccontextmanager
async def kubelet_of_secrets(harness: Harness, workers: MemoryWorkers) -> AsyncIterator[list[tuple[str, ...]]]:
    """Bring the Secret to the workers a while after each change; the contents that they held, one after another."""
    contents: list[tuple[str, ...]] = []

    async def bring() -> None:
        while True:
            found = await held(harness)
            if found and (not contents or found != contents[-1]):
                contents.append(found)
                await asyncio.sleep(0.5)
                workers.knobs.secrets = found
            await asyncio.sleep(0.05)

    task = asyncio.create_task(bring(), name="kubelet-of-secrets")
    try:
        yield contents
    finally:
        task.cancel()


async def test_a_deleted_secret_comes_back_the_same(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both that of the workers and that of users; pods that start later are believed by those that run."""
    monkeypatch.setattr(secret_keeper, "_CHECK_S", 0.5)
    await harness.make("chat")
    await harness.until("chat", is_ready)
    for name in (NAME, "chat.client-internal"):
        before = await harness.api.get("v1", "Secret", name, harness.namespace)
        await harness.api.delete("v1", "Secret", name, harness.namespace)
        after = await harness.api.wait_for(
            "v1",
            "Secret",
            name,
            lambda found, before=before: found["metadata"]["uid"] != before["metadata"]["uid"],  # type: ignore[misc]  # bound at once
            harness.namespace,
        )
        assert after["data"] == before["data"]


async def test_a_new_generation_is_brought_in_three_steps(harness: Harness) -> None:
    """Without a moment in which a worker signs with what another one does not know; the cluster stays ready."""
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    async with kubelet_of_secrets(harness, workers) as contents:
        await eventually(lambda: len(contents) == 1, what="the workers hold the secret")
        await harness.edit("chat", {"secretGeneration": 2})
        found = await harness.until("chat", lambda it: secret_of(it) == [2] and it["status"]["secret"]["made"])
        await eventually(lambda: len(contents) == 4, what="the last step is with the workers")
    old, new = contents[0][0], contents[3][0]
    assert contents == [(old,), (old, new), (new, old), (new,)]
    assert is_ready(found)
    await harness.until("chat", is_ready)


async def test_the_operators_key_is_rotated(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/kubernetes.md has it: the new key first, the old one until no status names it, then the new one alone."""
    monkeypatch.setattr(operator_key, "_READ_AGAIN_S", 0.2)
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    key = await harness.api.get("v1", "Secret", KEY_SECRET_NAME, harness.namespace)
    old = base64.b64decode(key["data"][KEY_FIELD]).decode().strip()
    new = "a key of thirty-two bytes or more, by hand"
    async with kubelet_of_secrets(harness, workers) as contents:
        await set_keys(harness, new, old)
        before = (await harness.look("chat"))["status"]["secret"]["values"][0]["operatorKey"]
        await harness.until(
            "chat", lambda it: [each["operatorKey"] for each in it["status"]["secret"]["values"]] not in ([before], [])
            and len(it["status"]["secret"]["values"]) == 1
        )  # fmt: skip
        await eventually(lambda: len(contents) == 4, what="the last step is with the workers")
    await set_keys(harness, new)
    await asyncio.sleep(0.5)
    assert stalled_by("NotStalled")(await harness.look("chat"))
    await harness.until("chat", is_ready)


async def test_a_lost_key_is_named_and_put_back(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is replaced meanwhile."""
    monkeypatch.setattr(operator_key, "_READ_AGAIN_S", 0.2)
    await harness.make("chat")
    await harness.until("chat", is_ready)
    before = await held(harness)
    key = await harness.api.get("v1", "Secret", KEY_SECRET_NAME, harness.namespace)
    old = base64.b64decode(key["data"][KEY_FIELD]).decode().strip()
    await set_keys(harness, "a key of thirty-two bytes or more, by hand")
    await harness.edit("chat", {"drain": {"timeoutSeconds": 6}})
    await harness.until("chat", stalled_by("InternalSecretMismatch"))
    assert await held(harness) == before
    await set_keys(harness, old)
    await harness.until("chat", is_ready, within_s=60)
    assert await held(harness) == before


async def test_a_deleted_key_is_made_again_as_it_was(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the operator that leads."""
    monkeypatch.setattr(operator_key, "_READ_AGAIN_S", 0.2)
    await harness.make("chat")
    await harness.until("chat", is_ready)
    before = await harness.api.get("v1", "Secret", KEY_SECRET_NAME, harness.namespace)
    await harness.api.delete("v1", "Secret", KEY_SECRET_NAME, harness.namespace)
    after = await harness.api.wait_for("v1", "Secret", KEY_SECRET_NAME, lambda _: True, harness.namespace)
    assert after["data"] == before["data"]


async def set_keys(harness: Harness, *keys: str) -> None:
    """Write the operator's keys."""
    content = base64.b64encode("".join(f"{key}\n" for key in keys).encode()).decode()
    await harness.api.patch("v1", "Secret", KEY_SECRET_NAME, {"data": {KEY_FIELD: content}}, harness.namespace)


def secret_of(found: Object) -> list[int]:
    """The generations of the values that a cluster's Secrets hold."""
    return [each["generation"] for each in found["status"]["secret"]["values"]]
