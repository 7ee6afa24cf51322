"""One look at a cluster and what comes of it, on an API server in memory."""

import asyncio
import base64
import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from threadcluster_operator.controller import reconciler, secret_keeper
from threadcluster_operator.controller.actions import ASKED_AGAIN, OperatorContext
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.reconciler import Reconciler
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.controller.workqueue import TransientError
from threadcluster_operator.kube.client import (
    THREAD_CLUSTER,
    Conflict,
    Forbidden,
    Kind,
    KubeError,
    NotFound,
    Object,
    Rejected,
    Unreachable,
)
from threadcluster_operator.kube.nesting import flatten
from threadcluster_operator.render import key_fingerprint
from threadcluster_operator.workers.client import InvalidAnswer, NoWorkerAvailable, WorkerRefused

from shard_worker.contract_internal import (
    DatabaseReport,
    DatabaseState,
    HealthCounters,
    OwnershipResponse,
    TargetsRequest,
)
from shard_worker.contract_tls import Authority, Purpose, fingerprint
from tests.fakes.kube import InMemoryKube
from tests.fakes.worker_api import MemoryWorkers

KEY = b"a key of the operator with enough letters"
CHAT = Key("talk", "chat")
FIRST = ["NetworkPolicy", "Job", "Service", "Service", "PodDisruptionBudget"]


class Desk:
    """A reconciler, and what it works on."""

    def __init__(self, **spec: Any) -> None:  # as YAML would have it
        self.shelf = InMemoryKube()
        self.cache = Cache()
        self.workers = MemoryWorkers(8)
        self.now = 1_000.0
        """Of the operator's clock, in seconds."""
        self.tenants = TenantPolicy()
        self.keys = {key_fingerprint(KEY): KEY}
        self.secrets: list[str] = []
        """By which the workers were asked, one after another."""
        self.restart()
        meta = {"name": "chat", "namespace": "talk", "uid": "cluster-1", "generation": 1}
        self.edit(
            {
                "apiVersion": "threadcluster.io/v1alpha1",
                "kind": "ThreadCluster",
                "metadata": meta,
                "spec": {
                    "shards": 8,
                    "replicas": 1,
                    "image": "threadcluster:1",
                    "database": {"urlSecretKeyRef": {"name": "database"}},
                    **spec,
                },
            }
        )

    def restart(self, namespace: str = "threadcluster-system") -> None:
        """Another process of the operator, which remembers nothing."""
        self.telemetry = Telemetry()
        self.reconciler = Reconciler(
            self.shelf,
            self.cache,
            self._reach,
            Recorder(self.shelf, "operator-0"),
            self.telemetry,
            OperatorContext(namespace, keys=self.keys, site="kubernetes-1", tenants=self.tenants),
        )
        self.reconciler.clock = lambda: self.now

    def _reach(self, key: Key, addresses: Mapping[str, str], secret: str) -> MemoryWorkers:
        assert key == CHAT
        assert secret
        self.secrets.append(secret)
        for name, url in addresses.items():
            assert url == "https://[2001:db8::1]:8081"
            if name not in self.workers._workers:
                self.workers.start(name)
        for _ in range(4):
            self.workers.turn()
        return self.workers

    def edit(self, resource: Object) -> None:
        """The user makes it, or changes it."""
        self.cache.put(self.shelf.put(resource))

    @property
    def resource(self) -> Object:
        """The ThreadCluster."""
        return self.shelf.objects["ThreadCluster", "chat"]

    def condition(self, name: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        return next((c["status"], c["reason"]) for c in self.resource["status"]["conditions"] if c["type"] == name)

    async def look(self, *, within_s: float = 1.5) -> float | None:
        """A reconciliation, after the watches have delivered everything, and another once the workers have answered."""
        for _ in range(2):
            for each in list(self.shelf.objects.values()):
                self.cache.put(each)
            requeue_after_s = await self.reconciler.reconcile(CHAT)
            await self.turns()
            self.now += within_s
        return requeue_after_s

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        """The requests to the API server."""
        return self.shelf.calls

    async def turns(self) -> None:
        """Turns of the loop, in which the workers in memory answer."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def made(self) -> list[str]:
        """The kinds of what one look makes."""
        self.shelf.calls.clear()
        await self.look()
        return [kind for verb, kind, _ in self.shelf.writes() if verb == "create"]

    async def until_ready(self) -> None:
        """Play the others until nothing is to be done any more."""
        for _ in range(10):
            await self.look()
            for (kind, _), each in self.shelf.objects.items():
                if kind == "Job":
                    each["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
                    self.shelf.put(each)
            live = self.shelf.objects.get(("StatefulSet", "chat"))
            if live is not None:
                generation = live["metadata"].get("generation", 1)
                live["status"] = {
                    "observedGeneration": generation,
                    "replicas": 1,
                    "currentRevision": "r",
                    "updateRevision": "r",
                }
                self.shelf.put(live)
                self.shelf.put(pod(live))
            if "status" in self.resource and self.condition("Ready")[0] == "True":
                return
        raise AssertionError(self.resource["status"]["conditions"])


def pod(owner: Object) -> Object:
    """The worker of a StatefulSet, ready."""
    labels = owner["spec"]["template"]["metadata"]["labels"] | {"controller-revision-hash": "r"}
    reference = {"kind": "StatefulSet", "name": "chat", "uid": owner["metadata"]["uid"], "controller": True}
    return {
        "kind": "Pod",
        "metadata": {"name": "chat-0", "namespace": "talk", "labels": labels, "ownerReferences": [reference]},
        "spec": {"nodeName": "node", "containers": [{"image": "threadcluster:1"}]},
        "status": {"podIP": "2001:db8::1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


async def test_everything_but_the_workers_is_made_before_the_migration_is_done() -> None:
    """In order; and looked at again soon."""
    desk = Desk()
    assert await desk.made() == [*FIRST, "Secret", "Secret"]
    assert desk.condition("Progressing") == ("True", "Migrating")
    assert await desk.made() == []


async def test_a_cluster_at_rest_is_only_looked_at() -> None:
    """Nothing is written, and the next look is some seconds away."""
    desk = Desk()
    await desk.until_ready()
    requeue_after_s = await desk.look()
    desk.shelf.writes()
    assert await desk.look() == requeue_after_s
    assert desk.shelf.writes() == []
    assert requeue_after_s is not None
    assert requeue_after_s >= 5


async def test_what_was_remembered_may_be_lost_at_any_time() -> None:
    """Another operator looks at a cluster at rest, and writes nothing."""
    desk = Desk()
    await desk.until_ready()
    desk.shelf.writes()
    before = desk.reconciler
    desk.reconciler = Reconciler(
        desk.shelf,
        desk.cache,
        desk._reach,
        Recorder(desk.shelf, "operator-1"),
        Telemetry(),
        OperatorContext("threadcluster-system", keys=desk.keys, site="kubernetes-1"),
    )
    desk.reconciler.clock = lambda: desk.now
    assert before is not desk.reconciler
    await desk.look()
    assert desk.shelf.writes() == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Forbidden(403, "Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: none'), "MigrationQuotaExceeded"),
        (Forbidden(403, "Forbidden", 'is forbidden: User "operator" cannot create resource "jobs"'), "Forbidden"),
        (Rejected(422, "Invalid", "spec.template.spec.x: Invalid value"), "ChildRejected"),
    ],
    ids=["quota", "right", "field"],
)
async def test_a_refusal_of_the_api_server_is_reported_with_its_message(fault: KubeError, reason: str) -> None:
    """And is made as soon as it is allowed."""
    desk = Desk()
    desk.shelf.fault = lambda verb, kind: fault if (verb, kind) == ("create", "Job") else None
    await desk.look()
    assert desk.condition("Stalled") == ("True", reason)
    message = next(c["message"] for c in desk.resource["status"]["conditions"] if c["type"] == "Stalled")
    assert str(fault) in message
    assert "Remedy" in message
    desk.shelf.fault = lambda verb, kind: None
    await desk.until_ready()
    assert desk.condition("Stalled") == ("False", "NotStalled")


def refuse(desk: Desk, verb: str, kind: str, fault: KubeError, *, dry_run: KubeError | None = None) -> None:
    """Answer one verb on one kind with an error, and its dry run with another."""

    def answer(asked: str, about: str) -> KubeError | None:
        if about != kind:
            return None
        return {verb: fault, f"try {verb}": dry_run or fault}.get(asked)

    desk.shelf.fault = answer


REFUSALS = [
    (Unreachable(500, "InternalError", 'failed calling webhook "a": EOF'), "AdmissionUnavailable"),
    (Forbidden(403, "Forbidden", 'admission webhook "a" denied the request: no'), "AdmissionDenied"),
    (Rejected(500, "", "failed to create typed patch object (a): .spec: no"), "ChildRejected"),
    (NotFound(404, "", "404 page not found"), "KindMissing"),
    (Unreachable(429, "TooManyRequests", "too many requests"), "ApiThrottled"),
    (Unreachable(500, "InternalError", "etcdserver: no leader"), "ApiFailing"),
]


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget", "Ingress"])
@pytest.mark.parametrize(("fault", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
async def test_a_child_that_is_refused_stops_only_itself(kind: str, fault: KubeError, reason: str) -> None:
    """Everything else is made, shards are planned and served, and the status names the child; hardly anything is written
    until the cause is gone.
    """
    desk = Desk(gateway={"ingress": {"host": "chat.example"}})
    refuse(desk, "create", kind, fault)
    with pytest.raises(AssertionError):
        await desk.until_ready()
    assert ("StatefulSet", "chat") in desk.shelf.objects
    assert desk.condition("Available") == ("True", "AllShardsServed")
    assert desk.condition("Stalled") == ("True", reason)
    message = next(c["message"] for c in desk.resource["status"]["conditions"] if c["type"] == "Stalled")
    assert message.startswith(f"{kind} chat")
    desk.shelf.writes()
    for _ in range(60):
        await desk.look()
    assert [call for call in desk.shelf.writes() if call[1] == kind] == []
    desk.shelf.fault = lambda verb, about: None
    for _ in range(10):
        await desk.look()
    assert desk.condition("Ready") == ("True", "Reconciled")


async def test_the_number_of_workers_follows_when_the_template_is_refused() -> None:
    """With the template that they have; the whole StatefulSet is applied when it is taken."""
    desk = Desk()
    await desk.until_ready()
    wrong = Rejected(500, "", "failed to create typed patch object (talk/chat): .spec.template.spec.x: no")
    refuse(desk, "apply", "StatefulSet", wrong)
    resource = desk.resource
    resource["spec"] |= {"replicas": 2, "worker": {"snapshotEveryEvents": 7}}
    resource["metadata"]["generation"] = 2
    desk.edit(resource)
    before = desk.shelf.objects["StatefulSet", "chat"]["spec"]["template"]
    await desk.look()
    live = desk.shelf.objects["StatefulSet", "chat"]
    assert (live["spec"]["replicas"], live["spec"]["template"]) == (2, before)
    assert desk.condition("Stalled") == ("True", "ChildRejected")
    desk.shelf.fault = lambda verb, about: None
    for _ in range(5):
        await desk.look()
    assert desk.shelf.objects["StatefulSet", "chat"]["spec"]["template"] != before


async def test_no_migration_begins_for_workers_that_would_be_refused() -> None:
    """The StatefulSet that is to follow is tried out; a webhook that supports no dry run is no reason to wait."""
    desk = Desk()
    refuse(desk, "create", "StatefulSet", Rejected(422, "Invalid", "spec.template.spec.x: Invalid value"))
    assert "Job" not in await desk.made()
    assert desk.condition("Stalled") == ("True", "ChildRejected")
    for _ in range(20):
        assert set(await desk.made()) <= {"Secret"}
    unsupported = Rejected(400, "BadRequest", 'admission webhook "a" does not support dry run')
    refuse(desk, "create", "StatefulSet", unsupported)
    for _ in range(6):
        await desk.look()
    assert [kind for kind, _ in desk.shelf.objects if kind == "Job"] == ["Job"]
    desk.shelf.fault = lambda verb, about: None
    await desk.until_ready()


async def test_a_child_that_an_admission_rule_changes_is_applied_once() -> None:
    """The API server's answer counts for what was wanted; another operator applies it once more."""
    desk = Desk()
    put = desk.shelf.put

    def mirrored(body: Object) -> Object:
        if body["kind"] == "StatefulSet":
            body = copy.deepcopy(body)
            container = body["spec"]["template"]["spec"]["containers"][0]
            container["image"] = "mirror/" + container["image"].removeprefix("mirror/")
        return put(body)

    desk.shelf.put = mirrored  # type: ignore[method-assign]  # an admission rule
    await desk.until_ready()
    desk.shelf.writes()
    for _ in range(5):
        await desk.look()
    assert desk.shelf.writes() == []
    desk.restart()
    for _ in range(5):
        await desk.look()
    assert [call for call in desk.shelf.writes() if call[1] == "StatefulSet"] == [("apply", "StatefulSet", "chat")]
    live = desk.shelf.objects["StatefulSet", "chat"]
    live["spec"]["template"]["spec"]["containers"][0]["command"] = ["another"]
    desk.shelf.put(live)
    await desk.look()
    assert ("apply", "StatefulSet", "chat") in desk.shelf.writes()


async def test_a_writer_that_takes_everything_back_is_named() -> None:
    """And is not fought at full speed."""
    desk = Desk()
    await desk.until_ready()
    desk.shelf.writes()
    writes = 0
    for _ in range(60):
        service = desk.shelf.objects["Service", "chat"]
        service["spec"]["ports"] = [{"port": 1}]
        desk.shelf.put(service)
        await desk.look(within_s=0.5)
        writes += ("apply", "Service", "chat") in desk.shelf.writes()
    assert writes <= 8
    assert desk.condition("Stalled") == ("True", "ChildReverted")


async def test_shards_are_planned_while_the_api_server_is_away() -> None:
    """Targets go to the workers themselves; the look is repeated, and reports nothing that it could not write."""
    desk = Desk()
    await desk.until_ready()
    resource = desk.resource
    resource["spec"]["replicas"] = 2
    resource["metadata"]["generation"] = 2
    desk.edit(resource)
    await desk.look()
    second = pod(desk.shelf.objects["StatefulSet", "chat"])
    second["metadata"]["name"] = "chat-1"
    desk.shelf.put(second)
    await desk.look()
    resource["spec"]["replicas"] = 1
    resource["metadata"]["generation"] = 3
    desk.edit(resource)
    desk.workers.calls.clear()
    desk.shelf.objects.pop(("PodDisruptionBudget", "chat"))
    for each in desk.cache.children(CHAT):
        if each["kind"] == "PodDisruptionBudget":
            desk.cache.drop(each)
    away = Unreachable(0, "", "no answer")
    desk.shelf.fault = lambda verb, kind: away if verb in ("create", "apply", "merge status") else None
    for _ in range(3):  # the plan is made from an answer that is newer than the edit, and recorded in the background
        with pytest.raises(TransientError, match="no answer"):
            await desk.look()
        await desk.turns()
    assert "targets" in {name for name, _ in desk.workers.calls}


def grow(desk: Desk, *, ready: bool = True) -> None:
    """A cluster at rest is to have a second worker, and half of the shards there; ``ready``: whether the workers' pods are."""
    resource = desk.resource
    resource["spec"]["replicas"] = 2
    resource["metadata"]["generation"] = 2
    desk.edit(resource)
    for name in ("chat-0", "chat-1"):
        made = pod(desk.shelf.objects["StatefulSet", "chat"])
        made["metadata"]["name"] = name
        made["status"]["conditions"][0]["status"] = "True" if ready else "False"
        desk.shelf.put(made)


async def test_a_plan_that_is_refused_is_sent_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cause; the first refusal alone is followed by another plan at once, and a plan that is taken by the next."""
    desk = Desk()
    sent: list[float] = []
    take = desk.workers.set_targets

    async def refuse(plan: TargetsRequest) -> int:
        sent.append(desk.now)
        if desk.now < taken_at:
            raise WorkerRefused("validation-failed", "targets: a worker is unknown")
        return await take(plan)

    await desk.until_ready()
    monkeypatch.setattr(desk.workers, "set_targets", refuse)
    grow(desk)
    taken_at = desk.now + 20.0
    while desk.now < taken_at + 10.0:
        await desk.look(within_s=0.05)
    pauses = [after - before for before, after in pairwise(each for each in sent if each < taken_at)]
    assert len(pauses) >= 6
    assert pauses[0] <= 0.2
    assert pauses[1:] == sorted(pauses[1:])
    assert max(pauses) >= 4.0
    assert {call for call, _ in desk.workers.calls} == {"targets"}
    assert [each for each in sent if each >= taken_at]


async def test_no_plan_is_sent_while_no_worker_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none to ask, and a pod that becomes ready has the cluster looked at."""
    desk = Desk()
    sent: list[TargetsRequest] = []

    async def take(plan: TargetsRequest) -> int:
        sent.append(plan)
        raise NoWorkerAvailable("no worker runs")

    await desk.until_ready()
    monkeypatch.setattr(desk.workers, "set_targets", take)
    grow(desk, ready=False)
    for _ in range(20):
        await desk.look(within_s=0.05)
    assert sent == []
    grow(desk)
    for _ in range(20):
        await desk.look(within_s=0.05)
    assert sent


async def test_a_foreign_object_that_cannot_be_read_is_still_foreign() -> None:
    """It is not taken for one that is gone."""
    desk = Desk()
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "talk"}, "spec": {}}
    desk.shelf.put(foreign)
    await desk.look()
    await desk.look()
    failing = Unreachable(500, "", "etcdserver: no leader")
    desk.shelf.fault = lambda verb, kind: failing if (verb, kind) == ("get", "Service") else None
    await desk.look()
    assert desk.condition("Stalled") == ("True", "NameConflict")


async def test_a_migration_that_is_tried_again_stays_stalled_until_it_succeeds() -> None:
    """A mere try does not report the migration as mended."""
    desk = Desk()
    await desk.look()
    (job,) = [each for (kind, _), each in desk.shelf.objects.items() if kind == "Job"]
    long_ago = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    job["status"] = {"conditions": [long_ago]}
    failed = desk.shelf.put(job)
    await desk.look()
    assert desk.condition("Stalled") == ("True", "MigrationFailed")
    desk.cache.drop(failed)
    assert await desk.made() == ["Job"]
    assert desk.condition("Stalled") == ("True", "MigrationFailed")
    assert desk.condition("Progressing") == ("True", "Migrating")
    await desk.until_ready()
    assert desk.condition("Stalled") == ("False", "NotStalled")


async def test_a_change_that_cannot_be_applied_is_merged() -> None:
    """An entry that another manager added to a list may conflict with the operator's."""
    desk = Desk()
    await desk.until_ready()
    service = desk.shelf.objects["Service", "chat"]
    service["spec"]["ports"] = [{"port": 1}]
    desk.shelf.put(service)
    desk.shelf.fault = lambda verb, kind: Rejected(422, "Invalid", "twice") if verb == "apply" else None
    desk.shelf.writes()
    await desk.look()
    assert ("merge", "Service", "chat") in desk.shelf.writes()
    assert [each["port"] for each in desk.shelf.objects["Service", "chat"]["spec"]["ports"]] == [80]


@pytest.mark.parametrize(("version", "kind"), [("v1", "Service"), ("apps/v1", "StatefulSet")])
async def test_an_object_of_another_owner_is_left_alone_until_it_is_gone(version: str, kind: str) -> None:
    """It has no labels of ours, so no watch tells of it: it is asked for, also when only a dry run meets it."""
    desk = Desk()
    foreign = {"apiVersion": version, "kind": kind, "metadata": {"name": "chat", "namespace": "talk"}, "spec": {}}
    desk.shelf.put(foreign)
    await desk.look()
    assert await desk.look() == reconciler._BLOCKED_S
    assert desk.condition("Stalled") == ("True", "NameConflict")
    assert desk.shelf.objects[kind, "chat"]["spec"] == {}
    del desk.shelf.objects[kind, "chat"]
    await desk.until_ready()


async def test_a_paused_cluster_gets_a_status_alone() -> None:
    """Not even what is missing is made."""
    desk = Desk(paused=True)
    assert await desk.made() == []
    assert desk.condition("Ready") == ("False", "Paused")


async def test_a_spec_that_is_not_understood_changes_nothing() -> None:
    """The fields are named."""
    desk = Desk(replicas=-1)
    assert await desk.made() == []
    assert desk.condition("Stalled") == ("True", "SpecInvalid")
    message = next(c["message"] for c in desk.resource["status"]["conditions"] if c["type"] == "Stalled")
    assert "spec.replicas" in message


async def test_an_api_server_that_is_away_is_an_expected_fault() -> None:
    """The queue tries again."""
    desk = Desk()
    desk.shelf.fault = lambda verb, kind: Unreachable(0, "", "no answer")
    with pytest.raises(TransientError, match="no answer"):
        await desk.look()


async def test_a_cluster_that_goes_or_is_gone_is_looked_at_no_more() -> None:
    """Its children go with it."""
    desk = Desk()
    desk.resource["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    desk.edit(desk.resource)
    assert await desk.made() == []
    assert await desk.look() is None
    desk.cache.drop(desk.resource)
    del desk.shelf.objects["ThreadCluster", "chat"]
    assert await desk.look() is None


async def test_ready_workers_without_an_answer_are_reported_after_a_while() -> None:
    """Their last answer counts for five seconds: a lost packet changes no status, and is no reason for an alarm."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.silent = True
    began = desk.now
    desk.shelf.writes()
    while desk.now - began < 4.0:
        await desk.look(within_s=0.5)
    assert desk.shelf.writes() == []
    assert desk.condition("Available") == ("True", "AllShardsServed")
    while desk.now - began < 8.0:
        await desk.look(within_s=0.5)
    assert desk.condition("Available") == ("Unknown", "OwnershipUnknown")
    assert desk.condition("Ready")[0] == "False"
    assert desk.condition("Stalled") == ("True", "WorkerUnreachable")
    desk.workers.knobs.silent = False
    while desk.now - began < 16.0:
        await desk.look(within_s=0.5)
    assert desk.condition("Ready") == ("True", "Reconciled")


@pytest.mark.parametrize("fault", ["DatabaseUnreachable", "DatabaseAuthFailed", "DatabaseTLSFailed"])
async def test_workers_without_their_database_are_not_ready(fault: str) -> None:
    """With the reason that the workers report, and Stalled only when it lasts; all of it passes with the fault."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.outage = DatabaseReport(
        state=DatabaseState.DISCONNECTED, since=None, reason=fault, message="no Postgres answers at db:5432"
    )
    began = desk.now
    while desk.now - began < 8.0:
        await desk.look(within_s=1.1)
    assert desk.condition("Ready") == ("False", fault)
    assert desk.condition("Available") == ("False", fault)
    assert desk.condition("Stalled") == ("False", "NotStalled")
    message = next(c["message"] for c in desk.resource["status"]["conditions"] if c["type"] == "Ready")
    assert "no Postgres answers at db:5432" in message
    assert "Remedy" in message
    desk.workers.knobs.outage = None
    await desk.look()
    await desk.look()
    assert desk.condition("Ready") == ("True", "Reconciled")
    assert desk.condition("Available") == ("True", "AllShardsServed")


async def test_one_status_is_written_at_most_once_a_second() -> None:
    """A change in between is written at the end of the second, and the look says when."""
    desk = Desk()
    await desk.until_ready()
    for round_number in range(6):
        desk.shelf.writes()
        began = desk.now
        while desk.now - began < 3.0:
            desk.resource["metadata"]["generation"] += 1  # as edits do
            requeue_after_s = await desk.look(within_s=0.1)
        written = [call for call in desk.shelf.writes() if call[0] == "merge status"]
        assert 1 <= len(written) <= 4, round_number
        assert requeue_after_s is not None
        assert requeue_after_s <= 1.0
    await desk.look(within_s=1.1)
    assert desk.resource["status"]["observedGeneration"] == desk.resource["metadata"]["generation"]


async def test_a_secret_that_is_gone_is_made_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by another operator, which remembers nothing: nothing of it is read."""
    monkeypatch.setattr(secret_keeper, "_CHECK_S", 0.0)
    desk = Desk()
    await desk.until_ready()
    for name in ("chat-internal", "chat.client-internal"):
        before = desk.shelf.objects.pop(("Secret", name))
        desk.restart()
        await desk.look()
        after = desk.shelf.objects["Secret", name]
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["data"] == before["data"]
    assert ("get", "Secret", "chat-internal") not in desk.asked


async def test_a_secret_of_another_owner_is_left_as_it_is() -> None:
    """And no worker is made that would take its content for the cluster's secret."""
    for name in ("chat-internal", "chat.client-internal"):
        desk = Desk()
        foreign = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"secret": "x"}}
        before = desk.shelf.put(foreign)
        for _ in range(3):
            await desk.look()
        assert desk.condition("Stalled") == ("True", "NameConflict")
        assert desk.shelf.objects["Secret", name] == before
        assert ("StatefulSet", "chat") not in desk.shelf.objects
        del desk.shelf.objects["Secret", name]
        await desk.until_ready()


async def test_a_right_on_secrets_that_is_lost_stops_the_secrets_alone() -> None:
    """It is named; everything else is made, and goes on when the right is there again."""
    desk = Desk()
    lost = Forbidden(403, "Forbidden", 'secrets is forbidden: User "o" cannot create resource "secrets"')
    desk.shelf.fault = lambda verb, kind: lost if kind == "Secret" else None
    await desk.look()
    await desk.look()
    assert desk.condition("Stalled") == ("True", "Forbidden")
    assert ("Service", "chat") in desk.shelf.objects
    assert await secret_requests(desk, for_s=60.0)
    asked = await secret_requests(desk, for_s=180.0)
    assert 180.0 / 10.0 <= len(asked) <= 180.0 / 5.0 + 1, asked
    assert {verb for verb, _, _ in asked} == {"try create"}
    desk.shelf.fault = lambda *_: None
    await desk.until_ready()


async def secret_requests(desk: Desk, *, for_s: float) -> list[tuple[str, str, str]]:
    """The requests about Secrets in this time."""
    desk.shelf.calls.clear()
    began = desk.now
    while desk.now - began < for_s:
        await desk.look()
    return [call for call in desk.shelf.calls if call[1] == "Secret"]


def without_dry_runs(calls: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The writes among requests that change something."""
    return [call for call in calls if not call[0].startswith("try ")]


async def test_secrets_that_are_there_are_not_made_again() -> None:
    """Neither while no worker answers, which an operator may not read a Secret to explain, nor while a pod waits: a dry run
    shows that they are there, seldom where every worker has started and holds what it needs.
    """
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.silent = True
    assert await secret_requests(desk, for_s=280.0) == []
    assert len(await secret_requests(desk, for_s=600.0)) == 2 * 2
    desk.shelf.objects["Pod", "chat-0"]["status"] = {"phase": "Pending"}
    asked = await secret_requests(desk, for_s=120.0)
    assert len(asked) >= 2 * 8
    assert without_dry_runs(asked) == []
    del desk.shelf.objects["Secret", "chat-internal"]
    asked = await secret_requests(desk, for_s=12.0)
    assert without_dry_runs(asked) == [("create", "Secret", "chat-internal")]


async def test_a_secret_of_workers_that_hold_another_one_is_soon_made_again() -> None:
    """As the status tells users to have it made."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.mismatched = True
    await desk.look(within_s=6.0)
    del desk.shelf.objects["Secret", "chat-internal"]
    asked = await secret_requests(desk, for_s=12.0)
    assert without_dry_runs(asked) == [("create", "Secret", "chat-internal")]


async def test_a_secret_that_comes_back_or_stays_after_its_deletion_is_hardly_ever_written() -> None:
    """For a finalizer, or another writer: it is named, deleted once in 30 s at most, and made when it is gone."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.secrets = held(desk)
    held_back = desk.shelf.objects["Secret", "chat-internal"]
    delete = desk.shelf.delete

    async def stays(kind: Kind, namespace: str, name: str, uid: str | None, *, dry_run: bool = False) -> None:
        await delete(kind, namespace, name, uid, dry_run=dry_run)
        if name == "chat-internal":
            desk.shelf.objects["Secret", name] = held_back

    desk.shelf.delete = stays  # type: ignore[method-assign]  # as with a finalizer
    desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
    assert await secret_requests(desk, for_s=60.0)
    assert desk.condition("Stalled") == ("True", "ChildRejected")
    asked = without_dry_runs(await secret_requests(desk, for_s=300.0))
    assert 5 <= len(asked) <= 10, asked
    assert set(asked) == {("delete", "Secret", "chat-internal")}
    desk.shelf.delete = delete  # type: ignore[method-assign]
    await secret_requests(desk, for_s=40.0)
    assert len(held(desk)) == 2
    assert desk.condition("Stalled")[1] == "NotStalled"


async def looks(desk: Desk, count: int) -> None:
    """A number of reconciliations, one after another."""
    for _ in range(count):
        await desk.look()


async def test_what_is_interrupted_between_delete_and_create_is_done_again() -> None:
    """The status says what the Secrets are to hold before they are made."""
    for verb in ("create", "delete"):
        desk = Desk()
        if verb == "delete":  # of the old Secret, when another takes its place
            await desk.until_ready()
            desk.workers.knobs.secrets = held(desk)
            desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
        desk.shelf.fault = lambda asked, kind, verb=verb: (  # type: ignore[misc]  # bound at once
            Unreachable(0, "", "away") if (asked, kind) == (verb, "Secret") else None
        )
        with pytest.raises(TransientError):
            await looks(desk, 3)
        assert not desk.resource["status"]["secret"]["made"]
        with pytest.raises(TransientError):
            await desk.look()
        desk.restart()
        desk.shelf.fault = lambda *_: None
        await desk.until_ready()
        assert desk.condition("Ready")[0] == "True"
        assert len(held(desk)) == (1 if verb == "create" else 2)


async def test_a_rotation_takes_three_steps_and_each_waits_for_every_worker() -> None:
    """Old and new; new and old; new.  At each, workers hold a value that all others verify."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.secrets = held(desk)
    (first,) = held(desk)
    desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
    steps = [held(desk)]
    while len(steps) < 4:
        for _ in range(2):  # the status first, then the Secrets
            await desk.look()
        steps.append(held(desk))
        for _ in range(3):  # the workers have not read the Secret yet
            await desk.look()
        assert held(desk) == steps[-1]
        desk.workers.knobs.secrets = held(desk)
    (new,) = steps[-1]
    assert new != first
    assert steps == [(first,), (first, new), (new, first), (new,)]
    assert desk.condition("Ready")[0] == "True"


async def test_a_rotation_waits_for_a_worker_that_does_not_answer() -> None:
    """It may hold the old value alone."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.secrets = held(desk)
    desk.workers.knobs.silent = True
    desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
    before = held(desk)
    for _ in range(5):
        await desk.look()
    assert held(desk) == before


async def test_a_rotation_waits_for_a_pod_that_the_cache_does_not_know() -> None:
    """The StatefulSet counts it."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.secrets = held(desk)
    live = desk.shelf.objects["StatefulSet", "chat"]
    for known in (1, 0):
        live["status"]["replicas"] = known + 1
        if known == 0:
            gone = desk.shelf.objects.pop(("Pod", "chat-0"))
            desk.cache.drop(gone)
        desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
        before = held(desk)
        for _ in range(4):
            await desk.look()
        assert held(desk) == before


async def test_a_new_key_of_the_operator_rotates_by_itself() -> None:
    """While the old one is kept for what it made; afterwards it may go."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.secrets = held(desk)
    fresh = b"another key of the operator with enough letters"
    old = dict(desk.keys)
    desk.keys.clear()
    desk.keys.update({key_fingerprint(fresh): fresh, **old})
    for _ in range(12):
        await desk.look()
        desk.workers.knobs.secrets = held(desk)
    assert [value["operatorKey"] for value in desk.resource["status"]["secret"]["values"]] == [key_fingerprint(fresh)]
    del desk.keys[key_fingerprint(KEY)]
    await desk.look()
    assert desk.condition("Stalled")[1] == "NotStalled"


async def test_a_lost_key_is_named_and_a_new_generation_goes_on_without_it() -> None:
    """The Secrets stay as they are until a user says so."""
    desk = Desk()
    await desk.until_ready()
    before = desk.shelf.objects["Secret", "chat-internal"]
    fresh = b"another key of the operator with enough letters"
    desk.keys.clear()
    desk.keys[key_fingerprint(fresh)] = fresh
    await desk.look()
    assert desk.condition("Stalled") == ("True", "InternalSecretMismatch")
    assert desk.condition("Available") == ("Unknown", "OwnershipUnknown")
    assert desk.shelf.objects["Secret", "chat-internal"] == before
    desk.edit({**desk.resource, "spec": {**desk.resource["spec"], "secretGeneration": 2}})
    for _ in range(3):
        await desk.look()
    assert desk.condition("Stalled")[1] == "NotStalled"
    assert desk.shelf.objects["Secret", "chat-internal"]["data"] != before["data"]


async def test_workers_with_another_secret_are_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the network."""
    monkeypatch.setattr(reconciler, "UNREACHABLE_S", 0.0)
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.mismatched = True
    for _ in range(5):
        await desk.look()
    assert desk.condition("Stalled") == ("True", "InternalSecretMismatch")


async def test_a_silent_cluster_is_not_written_to_after_a_restart_of_the_operator() -> None:
    """The reason was true before, and is found again: it is not called over meanwhile."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.silent = True
    began = desk.now
    while desk.now - began < 12.0:
        await desk.look(within_s=0.5)
    assert desk.condition("Stalled") == ("True", "WorkerUnreachable")
    desk.restart()
    desk.shelf.writes()
    began = desk.now
    while desk.now - began < 12.0:
        await desk.look(within_s=0.5)
    assert desk.shelf.writes() == []
    assert desk.condition("Stalled") == ("True", "WorkerUnreachable")


async def test_what_workers_count_is_exported_while_they_are_asked() -> None:
    """By worker, as it was reported last; a worker that has no pod any more is not shown."""
    desk = Desk()
    for counted in (1, 2):
        desk.workers.knobs.distort = lambda answer, counted=counted: msgspec.structs.replace(  # type: ignore[misc]  # bound at once
            answer, health=HealthCounters(takeovers=counted)
        )
        await desk.until_ready()
        for _ in range(20):  # at rest a worker is asked rarely
            await desk.look()
        page = desk.telemetry.page().decode()
        assert (
            f'threadcluster_worker_takeovers_total{{name="chat",namespace="talk",worker="chat-0"}} {counted}.0' in page
        )
    desk.cache.drop(desk.shelf.objects.pop(("Pod", "chat-0")))
    await desk.look()
    assert 'worker="chat-0"' not in desk.telemetry.page().decode()


async def test_a_quota_that_leaves_more_headroom_has_its_pods_asked_for_at_once() -> None:
    """Quotas are read while one refuses pods, and not more often than needed; in a busy namespace one growth in 30 s counts."""
    desk = Desk()
    await desk.until_ready()
    lists = ("list", "ResourceQuota", "")
    assert lists not in desk.asked
    live = desk.shelf.objects["StatefulSet", "chat"]
    live["status"]["replicas"] = 0
    desk.cache.drop(desk.shelf.objects.pop(("Pod", "chat-0")))

    def report() -> None:
        stamp = datetime.now(UTC).isoformat()
        about = {"kind": "StatefulSet", "namespace": "talk", "name": "chat", "uid": live["metadata"]["uid"]}
        desk.shelf.put(
            {
                "kind": "Event",
                "metadata": {"name": "refused", "namespace": "talk", "creationTimestamp": stamp},
                "reason": "FailedCreate",
                "message": "pods is forbidden: exceeded quota: small",
                "involvedObject": about,
            }
        )

    def limit(pods: int) -> None:
        status = {"hard": {"pods": str(pods)}, "used": {"pods": "0"}}
        desk.shelf.put({"kind": "ResourceQuota", "metadata": {"name": "small"}, "status": status})

    def asked_again() -> str:
        return str(desk.shelf.objects["StatefulSet", "chat"]["metadata"]["annotations"].get(ASKED_AGAIN, ""))

    report()
    limit(0)
    desk.shelf.calls.clear()
    began = desk.now
    while desk.now - began < 12.0:
        await desk.look(within_s=0.25)
    assert desk.condition("Stalled") == ("True", "QuotaExceeded")
    assert "-" not in asked_again()
    assert 3 <= desk.asked.count(lists) <= 5
    limit(1)
    began = desk.now
    while "-" not in asked_again():
        await desk.look(within_s=0.25)
    assert desk.now - began <= 4.0
    after = asked_again().partition("-")[2]
    for pods in range(2, 6):
        limit(pods)
        await desk.look(within_s=2.0)
    assert asked_again().partition("-")[2] == after
    refused = Forbidden(403, "Forbidden", 'resourcequotas is forbidden: User "o" cannot list resource "resourcequotas"')
    desk.shelf.fault = lambda verb, kind: refused if (verb, kind) == ("list", "ResourceQuota") else None
    await desk.look(within_s=2.0)
    assert desk.condition("Stalled") == ("True", "QuotaExceeded")


async def test_an_answer_that_is_not_taken_is_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the network; the reason goes with it."""
    desk = Desk()
    await desk.until_ready()

    async def too_long(worker: str) -> OwnershipResponse:
        raise InvalidAnswer(f"it is longer than the answer of {worker} may be")

    with monkeypatch.context() as broken:
        broken.setattr(desk.workers, "probe", too_long)
        began = desk.now
        while desk.now - began < 8.0:
            await desk.look(within_s=0.5)
    assert desk.condition("Stalled") == ("True", "WorkerAnswerInvalid")
    while desk.now - began < 16.0:
        await desk.look(within_s=0.5)
    assert desk.condition("Ready") == ("True", "Reconciled")


async def test_users_get_the_key_of_the_internal_api_alone() -> None:
    """With it one orders moves, and does not act as a worker."""
    desk = Desk()
    await desk.until_ready()
    line = text_of(desk, "chat.client-internal", "internal").strip().encode()
    assert (
        Authority(line, Purpose.INTERNAL).certificate
        == Authority(text_of(desk, "chat-internal", "secret").strip().encode(), Purpose.INTERNAL).certificate
    )
    with pytest.raises(ValueError, match="not the cluster's secret that a worker needs"):
        Authority(line, Purpose.PEER)


async def test_a_displaced_cluster_is_stalled_and_orders_nothing() -> None:
    """Its workers read the shards of the cluster that displaced it."""
    desk = Desk()
    await desk.until_ready()
    words = "the database belongs to cluster 'other.chat' (of other/chat, uid uid-2, in kubernetes-1)"
    desk.workers.knobs.distort = lambda answer: msgspec.structs.replace(answer, claimed_by_other=words)
    before = desk.workers.plan_version
    for _ in range(3):
        await desk.look()
    assert desk.condition("Stalled") == ("True", "DatabaseClaimedByOther")
    assert desk.condition("Available") == ("Unknown", "OwnershipUnknown")
    [stalled] = [each for each in desk.resource["status"]["conditions"] if each["type"] == "Stalled"]
    assert words in stalled["message"]
    assert desk.workers.plan_version == before


async def test_workers_of_another_cluster_stop_every_move() -> None:
    """They live, by their beats, and no StatefulSet of this cluster gives such a name."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.start("elsewhere-0")
    for _ in range(8):  # all workers are read again after ten seconds
        await desk.look()
    assert desk.condition("Stalled") == ("True", "ForeignWorkers")
    desk.workers.calls.clear()
    desk.edit(
        {**desk.resource, "spec": {**desk.resource["spec"], "rebalance": {"pins": [{"shard": 3, "worker": "chat-0"}]}}}
    )
    for _ in range(3):
        await desk.look()
    assert [call for call in desk.workers.calls if call[0] == "targets"] == []
    desk.workers.end("elsewhere-0")
    for _ in range(3):
        await desk.look()
    assert desk.condition("Stalled") == ("False", "NotStalled")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"image": "elsewhere.example/chat:1"}, "spec.image"),
        ({"gateway": {"service": {"type": "LoadBalancer"}}}, "spec.gateway.service.type"),
        (
            {"podTemplate": {"spec": {"securityContext": {"runAsUser": 0}}}},
            "spec.podTemplate.spec.securityContext.runAsUser",
        ),
    ],
)
async def test_a_spec_beyond_the_flags_is_refused_by_its_field(spec: dict[str, Any], field: str) -> None:
    """Nothing is made for it; a cluster that runs goes on as it was."""
    desk = Desk(**spec)
    desk.tenants = TenantPolicy(images=("threadcluster",), service_types=("ClusterIP",))
    desk.restart()
    await desk.look()
    assert desk.condition("Stalled") == ("True", "SpecInvalid")
    [stalled] = [each for each in desk.resource["status"]["conditions"] if each["type"] == "Stalled"]
    assert field in stalled["message"]
    assert {kind for kind, _ in desk.shelf.objects} == {"ThreadCluster"}
    running = Desk()
    await running.until_ready()
    before = running.shelf.objects["StatefulSet", "chat"]
    running.tenants = desk.tenants
    running.restart()
    running.edit({**running.resource, "spec": {**running.resource["spec"], **spec}})
    await running.look()
    assert running.condition("Stalled") == ("True", "SpecInvalid")
    assert running.shelf.objects["StatefulSet", "chat"] == before


async def test_a_cluster_that_was_deleted_unseen_is_not_made_again() -> None:
    """The write of its status finds that it is gone; the cache has missed that, and its children are collected."""
    desk = Desk()
    await desk.until_ready()
    del desk.shelf.objects["ThreadCluster", "chat"]
    desk.cache.drop(desk.shelf.objects.pop(("Service", "chat")))
    await desk.reconciler.reconcile(CHAT)
    assert CHAT not in desk.cache.resources
    desk.shelf.writes()
    assert await desk.reconciler.reconcile(CHAT) is None
    assert desk.shelf.writes() == []


async def test_a_successor_of_its_name_is_listed_when_a_status_is_refused() -> None:
    """It has another uid; only a list tells of it, where a watch has missed both events."""
    desk = Desk()
    await desk.until_ready()
    asked: list[Kind] = []
    desk.reconciler.relist = asked.append
    desk.shelf.fault = lambda verb, _: Conflict(409, "Conflict", "another uid") if verb == "merge status" else None
    desk.cache.drop(desk.shelf.objects.pop(("Service", "chat")))
    await desk.reconciler.reconcile(CHAT)
    assert asked == [THREAD_CLUSTER]


@pytest.mark.parametrize("what", ["changed", "replaced", "gone"])
async def test_a_refused_apply_corrects_the_cache(what: str) -> None:
    """An object that was changed, replaced or deleted without an event: the next look knows, without a watch."""
    desk = Desk()
    await desk.until_ready()
    before = desk.shelf.objects["Service", "chat"]
    desk.resource["spec"]["gateway"] = {"service": {"port": 8080}}
    desk.edit(desk.resource)
    if what == "changed":
        desk.shelf.put(before)
    else:
        del desk.shelf.objects["Service", "chat"]
    if what == "replaced":
        desk.shelf.put({**before, "metadata": {**before["metadata"], "uid": "another"}})
    await desk.reconciler.reconcile(CHAT)
    assert desk.shelf.objects.get(("Service", "chat"), before)["spec"] == before["spec"], "refused"
    desk.now += 5.0  # the refused write is not repeated at once
    await desk.reconciler.reconcile(CHAT)
    assert desk.shelf.objects["Service", "chat"]["spec"]["ports"][0]["port"] == 8080


async def test_a_spec_that_is_nested_too_deep_is_invalid() -> None:
    """The field is named, as far as it was read; nothing is created."""
    desk = Desk()
    deep = flatten(b'{"deep":' * 1_200 + b"1" + b"}" * 1_200)
    desk.resource["spec"]["podTemplate"] = {"spec": {"affinity": msgspec.json.decode(deep)}}
    desk.edit(desk.resource)
    assert await desk.made() == []
    assert desk.condition("Stalled") == ("True", "SpecInvalid")
    [stalled] = [each for each in desk.resource["status"]["conditions"] if each["type"] == "Stalled"]
    assert stalled["message"].startswith("spec.podTemplate.spec.affinity.deep")
    assert "nested deeper than any field" in stalled["message"]


async def test_a_pod_that_only_has_the_labels_is_no_worker() -> None:
    """It is neither counted nor asked, and does not take the cluster's readiness away."""
    desk = Desk()
    await desk.until_ready()
    live = desk.shelf.objects["StatefulSet", "chat"]
    stranger = pod(live)
    stranger["metadata"] |= {"name": "chat-7", "uid": "stranger", "ownerReferences": []}
    stranger["status"]["podIP"] = "2001:db8::2"
    desk.shelf.put(stranger)
    await desk.look()
    assert desk.condition("Ready") == ("True", "Reconciled")
    assert desk.resource["status"]["replicas"] == 1


async def test_a_second_installation_changes_nothing_while_the_first_one_lives() -> None:
    """It asks once, is refused, and says so; the first one notices, and goes on."""
    desk = Desk()
    await desk.until_ready()
    first = desk.reconciler
    desk.restart("elsewhere")
    second = desk.reconciler
    service = desk.shelf.objects["Service", "chat"]
    service["spec"]["ports"] = []
    desk.shelf.put(service)
    desk.shelf.writes()
    await desk.look()
    assert desk.shelf.writes() == [("merge status", "ThreadCluster", "chat")]
    assert desk.resource["status"]["operatorChallenge"] == "elsewhere"
    desk.reconciler = first
    await desk.look()
    assert "operatorChallenge" not in desk.resource["status"]
    assert desk.shelf.objects["Service", "chat"]["spec"]["ports"]
    desk.reconciler = second
    desk.shelf.writes()
    for _ in range(40):
        await desk.look(within_s=5.0)
    assert desk.shelf.writes() == []
    assert desk.condition("Ready") == ("True", "Reconciled")


async def test_a_refused_child_is_tried_again_while_the_workers_are_silent() -> None:
    """Its writes wait for no worker: only a cluster that can do nothing but wait is looked at rarely."""
    desk = Desk()
    await desk.until_ready()
    desk.workers.knobs.silent = True
    for _ in range(12):
        await desk.look()
    requeue_after_s = await desk.look()
    assert requeue_after_s is not None
    assert requeue_after_s >= reconciler._SILENT_S
    desk.cache.drop(desk.shelf.objects.pop(("PodDisruptionBudget", "chat")))
    refusal = Forbidden(403, "Forbidden", "no such right")
    desk.shelf.fault = lambda verb, kind: refusal if (verb, kind) == ("create", "PodDisruptionBudget") else None
    requeue_after_s = await desk.look(within_s=1.1)
    assert requeue_after_s is not None
    assert requeue_after_s < reconciler._SILENT_S
    desk.shelf.fault = lambda verb, kind: None
    for _ in range(5):
        await desk.look(within_s=5.0)
    assert ("PodDisruptionBudget", "chat") in desk.shelf.objects


async def test_a_claim_that_is_refused_corrects_the_cache() -> None:
    """A cluster that is gone is forgotten; where the name has another version, a list tells."""
    desk = Desk()
    asked: list[Kind] = []
    desk.reconciler.relist = asked.append
    desk.shelf.fault = lambda verb, _: Conflict(409, "Conflict", "another version") if verb == "merge status" else None
    with pytest.raises(TransientError, match="not claimed"):
        await desk.look()
    assert asked == [THREAD_CLUSTER]
    desk.shelf.fault = lambda verb, kind: None
    del desk.shelf.objects["ThreadCluster", "chat"]
    with pytest.raises(TransientError, match="not claimed"):
        await desk.reconciler.reconcile(CHAT)
    assert await desk.reconciler.reconcile(CHAT) is None
    assert asked == [THREAD_CLUSTER]


async def test_an_installation_that_is_gone_is_followed_by_the_other() -> None:
    """After a minute in which it did not answer."""
    desk = Desk()
    await desk.until_ready()
    desk.restart("elsewhere")
    began = desk.now
    while desk.resource["status"]["operator"] != "elsewhere":
        await desk.look(within_s=5.0)
    assert desk.now - began >= 60.0
    await desk.look()
    assert desk.condition("Ready") == ("True", "Reconciled")
    assert "operatorChallenge" not in desk.resource["status"]


def text_of(desk: Desk, name: str, key: str) -> str:
    """The content of a Secret."""
    return base64.b64decode(desk.shelf.objects["Secret", name]["data"][key]).decode()


def held(desk: Desk) -> tuple[str, ...]:
    """Fingerprints of the values that the Secret holds."""
    return tuple(fingerprint(line.encode()) for line in text_of(desk, "chat-internal", "secret").split())
