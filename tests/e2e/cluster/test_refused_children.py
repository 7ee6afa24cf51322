"""A child that the API server refuses stops only itself, on a real API server: the reason, the pace and the healing."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.e2e.cluster.admission_webhook import webhook
from tests.e2e.cluster.control_plane import read_timed_writes
from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Api, Object
from tests.support.polling import eventually

pytestmark = pytest.mark.cluster

NAMED_S: Final = 10.0
"""Time within which a status names the cause."""
HEALED_S: Final = 10.0
OTHERS_S: Final = 1.0
"""Time within which an edit of another cluster is acted on."""
_WATCHED_S: Final = 130.0
"""For how long the writes of stuck objects are counted: a minute in which they are tried more often, and two windows."""

TWICE: Final = [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}] * 2
"""Constraints that a create answers with 422 and a server-side apply with 500: two items of the same key."""


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


async def named(harness: Harness, name: str, reason: str, word: str) -> None:
    """The status names the cause in time, while every shard is served."""
    found = await harness.until(name, stalled_by(reason), within_s=NAMED_S)
    assert word in condition(found, "Stalled")["message"]


async def served(harness: Harness, name: str) -> None:
    """Its shards are planned and served, although it is not Ready."""
    await harness.until(name, lambda it: condition(it, "Available").get("status") == "True", within_s=60)


async def acted_on_in_time(harness: Harness, name: str) -> float:
    """How long an edit of a healthy cluster takes until its object is changed."""
    before = time.monotonic()
    await harness.edit(name, {"gateway": {"service": {"annotations": {"example.org/at": str(before)}}}})
    await harness.api.wait_for(
        "v1",
        "Service",
        name,
        lambda it: it["metadata"].get("annotations", {}).get("example.org/at") == str(before),
        harness.namespace,
    )
    return time.monotonic() - before


def densest(times: list[float], window_s: float) -> int:
    """The most of these within any window of that length."""
    return max((sum(first <= each < first + window_s for each in times) for first in times), default=0)


def times_of(harness: Harness, resource: str, name: str, *, verb: str | None = None) -> list[float]:
    """When an object was written."""
    assert harness.api.audit_log is not None
    return [
        at
        for at, write in read_timed_writes(harness.api.audit_log, namespace=harness.namespace)
        if write.resource == resource and write.name in (name, "") and verb in (None, write.verb)
    ]


@pytest.mark.timeout(400)
async def test_independent_refusals_at_once(harness: Harness) -> None:
    """A webhook that is down, a kind that is missing, a template that is wrong, and a quota, each of another cluster: each is
    named and healed in time, is hardly ever written meanwhile, and disturbs no other cluster.
    """
    api, where = harness.api, harness.namespace
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/ingresses.networking.k8s.io": "0"}}}
    await api.create({"apiVersion": "v1", "kind": "ResourceQuota", **quota}, where)
    await api.wait_for("v1", "ResourceQuota", "none", lambda it: it.get("status", {}).get("hard"), where)
    async with webhook(api, f"down-{where}") as hook:
        await hook.register(where, "", ["services"], instance="down")
        await hook.stop()
        began = time.time()
        ingress: Any = {"ingress": {"className": "nginx", "host": "chat.example"}}
        await harness.make("healthy")
        await harness.make("down")
        await harness.make("kind", monitoring={"serviceMonitor": "Enabled"})
        await harness.make("limited", gateway=ingress)
        await harness.make("typed")
        await asyncio.gather(
            named(harness, "down", "AdmissionUnavailable", "Service down"),
            named(harness, "kind", "KindMissing", "ServiceMonitor kind is not written"),
            named(harness, "limited", "QuotaExceeded", "Ingress limited is not written"),
            harness.until("typed", is_ready),
        )
        await harness.edit("typed", {"replicas": 3, "podTemplate": {"spec": {"topologySpreadConstraints": TWICE}}})
        await named(harness, "typed", "ChildRejected", "topologySpreadConstraints")
        await harness.until("healthy", is_ready)
        await asyncio.gather(*(served(harness, name) for name in ("down", "kind", "limited", "typed")))
        # The number of workers follows, with the template that they have.
        found = await harness.until("typed", lambda it: it["status"].get("readyReplicas") == 3)
        assert found["status"]["shards"]["assigned"] == 16
        slowest = 0.0
        while time.time() < began + _WATCHED_S:
            slowest = max(slowest, await acted_on_in_time(harness, "healthy"))
            await asyncio.sleep(2.0)
        print(f"an edit of another cluster was acted on after at most {slowest:.2f} s")
        assert slowest <= OTHERS_S
        stuck = (
            ("services", "down"),
            ("servicemonitors", "kind"),
            ("ingresses", "limited"),
            ("statefulsets", "typed"),
        )
        if api.audit_log is not None:
            for resource, name in stuck:
                written = times_of(harness, resource, name)
                late = [at for at in written if at > began + 60.0]
                print(f"{resource}/{name}: {len(written)} writes, {len(late)} of them after the first minute")
                assert written
                assert densest(late, 30.0) <= 1
        before = time.monotonic()
        await hook.start()
        await api.delete("v1", "ResourceQuota", "none", where)
        await harness.edit("kind", {"monitoring": {"serviceMonitor": "Disabled"}})
        await harness.edit("typed", {"podTemplate": {"spec": {"topologySpreadConstraints": TWICE[:1]}}})
        await asyncio.gather(
            *(harness.until(name, is_ready, within_s=HEALED_S) for name in ("down", "limited", "kind"))
        )
        print(f"healed after {time.monotonic() - before:.1f} s")
        await harness.until("typed", lambda it: condition(it, "Stalled")["status"] != "True", within_s=HEALED_S)
        await harness.until("typed", is_ready, within_s=60)


async def test_a_wrong_template_of_a_new_cluster_begins_no_migration(harness: Harness) -> None:
    """It would bring the schema to a release whose workers the API server does not take."""
    await harness.make("chat", podTemplate={"spec": {"topologySpreadConstraints": TWICE}})
    await named(harness, "chat", "ChildRejected", "topologySpreadConstraints")
    assert await harness.api.list("batch/v1", "Job", harness.namespace) == []
    await harness.edit("chat", {"podTemplate": {"spec": {"topologySpreadConstraints": []}}})
    await harness.until("chat", is_ready)


async def test_a_webhook_that_denies_is_named_whatever_number_it_uses(harness: Harness) -> None:
    """And the cluster is Ready soon after it allows."""
    async with webhook(harness.api, f"denies-{harness.namespace}") as hook:
        await hook.register(harness.namespace, "networking.k8s.io", ["networkpolicies"])
        hook.denies = "no policies on Mondays"
        for number, name in ((403, "first"), (500, "second"), (409, "third"), (404, "fourth")):
            hook.status = number
            await harness.make(name)
            await named(harness, name, "AdmissionDenied", "no policies on Mondays")
        hook.denies = None
        for name in ("first", "second", "third", "fourth"):
            await harness.until(name, is_ready, within_s=HEALED_S)


async def test_an_image_that_cannot_be_pulled_does_not_keep_the_number_of_workers(harness: Harness) -> None:
    """A release that cannot migrate: the workers that run are scaled in both directions, with the image that they have; an
    edit of where pods run begins no new migration.
    """

    def is_missing(pod: Object) -> bool:
        return bool(pod["spec"]["containers"][0]["image"] == "missing:1")

    harness.kubelet.behave(is_missing, Behaviour(starts="image missing"))
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    await harness.edit("chat", {"image": "missing:1"})
    await harness.until("chat", stalled_by("ImagePullFailed"))
    [job] = await harness.api.list("batch/v1", "Job", harness.namespace)
    await harness.edit("chat", {"replicas": 4})
    found = await harness.until("chat", lambda it: it["status"].get("readyReplicas") == 4)
    await eventually(lambda: all(len(workers.owned_by(f"chat-{number}")) == 4 for number in range(4)))
    await harness.edit("chat", {"replicas": 1})
    found = await harness.until("chat", lambda it: it["status"].get("replicas") == 1)
    assert condition(found, "Stalled")["reason"] == "ImagePullFailed"
    live = await harness.api.get("apps/v1", "StatefulSet", "chat", harness.namespace)
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "threadcluster:1"
    await harness.edit("chat", {"image": "threadcluster:1"})
    await harness.until("chat", is_ready)
    await harness.edit(
        "chat", {"podTemplate": {"spec": {"nodeSelector": {"kubernetes.io/hostname": harness.kubelet.nodes[0]}}}}
    )
    await harness.until("chat", is_ready, within_s=60)
    jobs = await harness.api.list("batch/v1", "Job", harness.namespace)
    assert [each["metadata"]["name"] for each in jobs if each["metadata"]["name"] != job["metadata"]["name"]] == []


async def test_a_quota_of_a_migration_has_a_reason_of_its_own(harness: Harness) -> None:
    """Where the namespace counts processors, the Job names what the workers name."""
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"requests.cpu": "10"}}}
    await harness.api.create({"apiVersion": "v1", "kind": "ResourceQuota", **quota}, harness.namespace)
    await harness.api.wait_for(
        "v1", "ResourceQuota", "small", lambda it: it.get("status", {}).get("hard"), harness.namespace
    )
    await harness.make("chat", worker={"resources": {"requests": {"cpu": "1"}}})
    await harness.until("chat", is_ready)
    await harness.make("other")
    await named(harness, "other", "MigrationQuotaExceeded", "requests.cpu")
    await harness.edit("other", {"worker": {"resources": {"requests": {"cpu": "1"}}}})
    await harness.until("other", is_ready, within_s=60)
