"""The diagnosis of a cluster that cannot reach its spec: a reason of a closed list, and a remedy.  Pure.

The diagnosis reads the cluster's own reports: the states of containers, the termination message of the last migration, and
Kubernetes' Events about objects that still exist.  The first finding in the order of `_FINDERS` is reported; later
findings usually follow from the first.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from shard_worker.contract_internal import MigrationFailure
from threadcluster_operator.controller.reasons import (
    AWAY,
    CRASH,
    ENDED,
    EVENTS,
    NEVER_THE_CAUSE,
    NODE,
    NOT_STARTED,
    REFUSALS,
    REMEDIES,
    TRIED_AGAIN,
    WAITING,
    Reason,
    Report,
)
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, condition, waiting_reason
from threadcluster_operator.kube.answers import Answer, meaning_of_report
from threadcluster_operator.render import MANAGEMENT_PORT, MIGRATION_CONTAINER, selector_of

_EVENT_MOST_S: Final = 600.0
"""Maximum age of an Event since its last occurrence; an older Event says nothing about the present."""
_MESSAGE_MOST: Final = 500
PASSING_S: Final = 180.0
"""Time for which a wait may last that often ends by itself before the cluster is Stalled: an autoscaler of nodes needs a minute
or two for a new node, and a node for its restart; tools take Stalled for a failure."""
UNREACHABLE_S: Final = 5.0
"""Time after which a ready worker that does not answer is reported: a lost packet is no reason."""
_ENDING_S: Final = 10.0
"""Time after the end of its grace within which a pod that is being deleted is gone, if its kubelet runs."""
OUTAGE_S: Final = 60.0
"""Time without a database after which the cluster is Stalled: a restart or a fail-over of Postgres is over sooner."""
CLOCKS_S: Final = 5.0
"""Most by which the operator's clock and another one of the Kubernetes cluster are taken to differ."""
_ALSO: Final = " Also: "
_NOT_WRITTEN: Final = " is not written: "


class Diagnosis(NamedTuple):
    """The reason why a cluster cannot reach its spec, and a message with the remedy."""

    reason: Reason
    message: str


class Findings(NamedTuple):
    """The findings in the cluster's own reports."""

    trouble: Diagnosis | None
    """Why the cluster is Stalled."""
    wait: Diagnosis | None = None
    """The first wait that often ends by itself, however short it has lasted."""


def examine(seen: ClusterSnapshot) -> Findings:
    """The findings of a snapshot."""
    waits = list(_passing_waits(seen))
    lasting = (trouble for trouble, since in waits if seen.now - since >= PASSING_S)
    found = (trouble for finder in _FINDERS for trouble in finder(seen))
    return Findings(next(chain(found, lasting), None), waits[0][0] if waits else None)


def diagnose(seen: ClusterSnapshot) -> Diagnosis | None:
    """The first diagnosis that the cluster's own reports give, or None."""
    return examine(seen).trouble


def refused(kind: str, name: str, answer: Answer, message: str) -> Diagnosis:
    """The diagnosis of a child that the API server does not take."""
    reason, remedy = REFUSALS[answer]
    if kind == "Job" and reason is Reason.QUOTA_EXCEEDED:
        reason = Reason.MIGRATION_QUOTA_EXCEEDED
    return _trouble(reason, f"{kind} {name}{_NOT_WRITTEN}{message}", remedy)


def reverted(kind: str, name: str) -> Diagnosis:
    """The diagnosis of a child that another writer changes back, again and again."""
    return _trouble(
        Reason.CHILD_REVERTED,
        f"another writer changes {kind} {name} again and again",
        "see its metadata.managedFields for who that is, and have one of the two leave it alone",
    )


def invalid_answer(worker: str, fault: str) -> Diagnosis:
    """The diagnosis of a worker whose answers are not taken."""
    return _trouble(
        Reason.WORKER_ANSWER_INVALID,
        f"the answer of {worker} is none that this operator takes: {fault}",
        "set spec.image to a release that fits the operator",
    )


def outage_diagnosis(seen: ClusterSnapshot) -> Diagnosis | None:
    """The diagnosis of a database that no worker has now, or None."""
    outage = seen.outage
    if outage is None:
        return None
    known = [reason for reason in REMEDIES if reason == outage.reason]
    reason = known[0] if known else Reason.DATABASE_UNREACHABLE
    report = f"no worker has its database: {outage.message or outage.reason}"
    return _trouble(reason, report, REMEDIES[reason])


def lasting_outage(seen: ClusterSnapshot) -> Diagnosis | None:
    """The diagnosis of a database that no worker has had for `OUTAGE_S`, or None."""
    if seen.outage is None or seen.now - seen.outage.since < OUTAGE_S:
        return None
    return outage_diagnosis(seen)


def wait_of(pod: Mapping[str, Any]) -> str:
    """The wait of a pod that is not ready, in the words of its kubelet; empty where its status does not say."""
    if "deletionTimestamp" in pod["metadata"]:
        return "it is being deleted"
    status = pod.get("status", {})
    for field, what in _CONTAINERS:
        for container in status.get(field, ()):
            word = _word_of(container, first=field == _FIRST)
            if word:
                return f"{what} {container.get('name', '')} {word}"
    for each in status.get("conditions", ()):
        if each["type"] == "Ready" and each.get("reason") == "ReadinessGatesNotReady":
            return _short(str(each.get("message", "")))
    return ""


def _word_of(container: Mapping[str, Any], *, first: bool) -> str:
    """The report of a container that keeps its pod from being ready; ``first``: it ends before the others begin."""
    if container.get("ready"):
        return ""
    state = container.get("state", {})
    if waiting_reason(container):
        return f"waits: {waiting_reason(container)}"
    if "terminated" in state:
        end = state["terminated"]
        return f"ended: {end.get('reason', 'Error')}, exit code {end.get('exitCode')}"
    return "runs" if first and "running" in state else ""


def previous_diagnosis(seen: ClusterSnapshot) -> Diagnosis | None:
    """The diagnosis of the last attempt of the migration, which counts until another attempt has succeeded.

    Only for a cluster that is still to be migrated, and as long as the same spec is wanted: an edit may be the remedy.
    """
    for each in (seen.resource.get("status") or {}).get("conditions") or ():
        if each["type"] == "Stalled" and each["status"] == "True" and each["observedGeneration"] == seen.generation:
            message, _, _ = each["message"].partition(_ALSO)
            if each["reason"] in TRIED_AGAIN and _NOT_WRITTEN not in message:
                return Diagnosis(Reason(each["reason"]), message)
    return None


def joined(first: Diagnosis, others: Iterable[Diagnosis]) -> Diagnosis:
    """A diagnosis whose message names others besides."""
    return Diagnosis(first.reason, _ALSO.join([first.message, *(each.message for each in others)]))


# --- what workers say


def _claimed_by_other(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    if seen.claimed_by_other:
        reason = Reason.DATABASE_CLAIMED_BY_OTHER
        yield _trouble(reason, seen.claimed_by_other, REMEDIES[reason])


def _foreign_workers(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    if seen.foreign_workers:
        yield _trouble(
            Reason.FOREIGN_WORKERS,
            f"workers of another cluster live in this database: {', '.join(seen.foreign_workers)}; no shard is moved",
            "end them, or give one of the two clusters a database of its own",
        )


# --- what containers say


def _not_started(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    """The containers of which a kubelet says why they do not start; a word that is not known is shown as it is."""
    for pod, what, container in _containers(seen):
        word = waiting_reason(container)
        if word in _BEING_MADE or word == "CrashLoopBackOff":
            continue
        reason, remedy = WAITING.get(word, NOT_STARTED)
        message = container["state"]["waiting"].get("message", "")
        text = f"{what} {container.get('name', '')} waits: {_in_words(word, message)}"
        if reason is Reason.IMAGE_PULL_FAILED:
            text = f"image {container.get('image', '')!r} cannot be pulled: {message or word}"
        lacks = word == "CreateContainerConfigError" and "runAsNonRoot" not in message
        found = _trouble(reason, f"pod {_name(pod)}: {text}", remedy)
        yield _missing(seen, _name(pod), message) if lacks else found


def _secrets(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for event in _events(seen, "FailedMount"):
        message = str(event.get("message", ""))
        if "not found" in message or "references non-existent" in message:
            yield _missing(seen, event["involvedObject"].get("name", ""), message)


_NOT_FOUND: Final = re.compile(r'(secret|configmap) "([^"]+)" not found', re.IGNORECASE)
_NO_KEY: Final = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)", re.IGNORECASE)
_NO_MOUNTED_KEY: Final = re.compile(r'volume "([^"]+)".*references non-existent (secret|config) key: (\S+)')


class _Reference(NamedTuple):
    """A Secret or a ConfigMap that a pod needs; of one that a kubelet reports only what its message names."""

    kind: str = ""
    name: str = ""
    key: str = ""
    volume: str = ""
    field: str = ""
    """The field of the spec that refers to it."""

    def is_named_by(self, reported: "_Reference") -> bool:
        """Whether a kubelet's message is about this reference."""
        if self.kind != reported.kind or reported.key not in ("", self.key):
            return False
        return self.name == reported.name if reported.name else self.volume == reported.volume


def _missing(seen: ClusterSnapshot, pod: str, message: str) -> Diagnosis:
    """The diagnosis of a pod that waits for a Secret or a ConfigMap, with the field that refers to it."""
    reported = _reported(message)
    for each in _database_references(seen, pod):
        if each.is_named_by(reported):
            what = (
                f"{each.kind} {each.name!r} has no key {each.key!r}"
                if reported.key
                else f"no {each.kind} {each.name!r}"
            )
            return _trouble(
                Reason.DATABASE_SECRET_MISSING,
                f"pod {pod} waits for what {each.field} refers to: {what}",
                f"make the {each.kind} with the key {each.key!r}, or correct {each.field}; the pod goes on by itself",
            )
    return _trouble(
        Reason.REFERENCE_MISSING,
        f"pod {pod} waits for something that is no part of spec.database: {message}",
        "make it, or correct what refers to it in spec.worker.env and spec.podTemplate; the pod goes on by itself",
    )


def _reported(message: str) -> _Reference:
    """The reference in a kubelet's message."""
    if (found := _NOT_FOUND.search(message)) is not None:
        return _Reference(_kind_of(found[1]), found[2])
    if (found := _NO_KEY.search(message)) is not None:
        return _Reference(_kind_of(found[2]), found[3], found[1])
    if (found := _NO_MOUNTED_KEY.search(message)) is not None:
        return _Reference(_kind_of(found[2]), "", found[3], found[1])
    return _Reference()


def _kind_of(word: str) -> str:
    return "Secret" if word.lower() == "secret" else "ConfigMap"


def _database_references(seen: ClusterSnapshot, pod: str) -> Iterator[_Reference]:
    """The references of spec.database that a pod has, as `threadcluster_operator.render.pod` mounts them."""
    database = seen.resource["spec"].get("database") or {}
    url, ca = "urlSecretKeyRef", (database.get("tls") or {}).get("caConfigMapKeyRef")
    migrates = pod.startswith(f"{seen.key.name}-migrate-")
    if migrates and database.get("migrationURLSecretKeyRef"):
        url = "migrationURLSecretKeyRef"
    given = [("Secret", database.get(url), "url", "database", url)]
    if not migrates:
        replica = "replicaURLSecretKeyRef"
        given.append(("Secret", database.get(replica), "url", "database-replica", replica))
    given.append(("ConfigMap", ca, "ca.crt", "database-ca", "tls.caConfigMapKeyRef"))
    for kind, found, default, volume, field in given:
        if found:
            yield _Reference(kind, found.get("name", ""), found.get("key", default), volume, f"spec.database.{field}")


def _migration(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    """How the last migration ended that failed, as long as none has succeeded since."""
    labels = selector_of(seen.key.name, "migration")
    jobs = [each for each in seen.children if each["kind"] == "Job" and condition(each, "Complete") != "True"]
    names = {each["metadata"]["name"] for each in jobs}
    pods = [
        pod
        for pod in seen.pods
        if (pod["metadata"].get("labels") or {}).items() >= labels.items()
        and pod["metadata"].get("labels", {}).get("job-name") in names
    ]
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    ends = [(pod, own_end(pod)) for pod in pods]
    if any(end.get("exitCode") == 0 for _, end in ends):
        return  # however a container beside it ends, and the Job with it
    known = [end for _, end in ends if end]
    if known and all(failed_in_outage(seen, end) for end in known):
        return
    for pod, end in ends:
        if not end and pod.get("status", {}).get("phase") == "Failed":
            yield _trouble(Reason.MIGRATION_FAILED, f"the migration did not run: {_failed(pod)}", NODE.remedy)
        elif end and not failed_in_outage(seen, end):
            yield _migration_end(end)
    for job in jobs:
        for each in job.get("status", {}).get("conditions", ()):
            if each["type"] == "Failed" and each["status"] == "True":
                why = _in_words(each.get("reason", ""), each.get("message", ""))
                text = f"job {_name(job)} failed{': ' if why else ''}{why}"
                yield _trouble(Reason.MIGRATION_FAILED, text, "see its log; it is tried again")


def own_end(pod: Mapping[str, Any]) -> Object:
    """How the own container of a migration's pod ended; empty while it has not."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container.get("name") == MIGRATION_CONTAINER:
            return dict(container.get("state", {}).get("terminated") or {})
    return {}


def failed_in_outage(seen: ClusterSnapshot, end: Mapping[str, Any]) -> bool:
    """Whether an attempt of the migration found no database while the workers had none either, and failed for the same reason.

    Such an attempt is a part of the outage, and says nothing of the database once the workers have it again.
    """
    reason = _migration_end(end).reason
    if reason not in AWAY:
        return False
    if seen.outage is not None:
        return bool(reason == seen.outage.reason)
    back_at, at = _database_back_at(seen), end.get("finishedAt")
    return back_at is not None and at is not None and datetime.fromisoformat(at).timestamp() <= back_at + CLOCKS_S


def _database_back_at(seen: ClusterSnapshot) -> float | None:
    """When the workers had the database again; None while they do not have it, or it is not known since when they do."""
    if seen.ownership is not None:
        for each in (seen.resource.get("status") or {}).get("conditions") or ():
            if each["type"] == "Available" and each["reason"] in AWAY:
                return seen.now  # the status still says what was before this snapshot
            if each["type"] == "Available" and each["status"] == "True":
                return datetime.fromisoformat(each["lastTransitionTime"]).timestamp()
    return None


def _migration_end(end: Mapping[str, Any]) -> Diagnosis:
    """The diagnosis of a container's end, also of one whose message is no `MigrationFailure`: the end of a log, for example."""
    word = str(end.get("reason", "Error"))
    message = str(end.get("message") or f"{word}, exit code {end.get('exitCode')}")
    try:
        failure = msgspec.json.decode(message, type=MigrationFailure)
    except msgspec.DecodeError:
        known = ENDED.get(word, CRASH)
        remedy = "see the log of its Job" if known is CRASH else known.remedy
        return _trouble(Reason.MIGRATION_FAILED, f"the migration failed: {message}", remedy)
    reason = Reason(failure.reason)
    return _trouble(reason, failure.message, REMEDIES[reason])


def _crashes(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for pod, what, container in _containers(seen):
        if waiting_reason(container) == "CrashLoopBackOff" or (
            container.get("restartCount", 0) >= 2 and not container.get("ready")
        ):
            last = container.get("lastState", {}).get("terminated", {})
            word = last.get("reason", "Error")
            ending = str(last.get("message", "")).strip() or f"exit code {last.get('exitCode', 'unknown')}"
            reason, remedy = ENDED.get(word, CRASH)
            which = _name(pod) if what == "container" else f"{what} {container.get('name', '')} of pod {_name(pod)}"
            yield _trouble(
                reason,
                f"{which} ends again and again: {ending if word == 'Error' else _in_words(word, ending)}",
                remedy,
            )


def _passing_waits(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each wait that often ends by itself, and since when it lasts."""
    for finder in (_without_node, _lost, _failed_pods, _unstarted, _not_ending, _silent):
        yield from finder(seen)


def _without_node(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each pod that finds no node."""
    for pod in seen.pods:
        for each in pod.get("status", {}).get("conditions", ()):
            if each["type"] == "PodScheduled" and each["status"] == "False" and each.get("reason") == "Unschedulable":
                found = _trouble(
                    Reason.WORKER_UNSCHEDULABLE,
                    f"pod {_name(pod)} finds no node: {each.get('message', '')}",
                    "add nodes, or ask for less in spec.worker.resources and spec.podTemplate",
                )
                at = each.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
                yield found, _instant(at, seen.now)


def _lost(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each pod whose node is lost.  The controller of nodes then says that the pod is not ready, whose containers are, by
    their kubelet's last report; a kubelet itself says so only of a readiness gate.
    """
    for pod in seen.pods:
        if condition(pod, "ContainersReady") != "True":
            continue
        for each in pod["status"]["conditions"]:
            if each["type"] == "Ready" and each["status"] != "True" and each.get("reason") != "ReadinessGatesNotReady":
                node = pod.get("spec", {}).get("nodeName", "")
                found = _trouble(
                    Reason.NODE_LOST,
                    f"node {node} of pod {_name(pod)} does not report any more",
                    "see whether the node runs; delete the Node if it is gone for good, and its pods go with it",
                )
                yield found, _instant(each.get("lastTransitionTime"), seen.now)


def _failed_pods(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each worker's pod that its node has refused or ended as a whole; its controller makes another."""
    labels = selector_of(seen.key.name, "worker")
    for pod in seen.pods:
        if (
            pod.get("status", {}).get("phase") == "Failed"
            and pod["metadata"].get("labels", {}).items() >= labels.items()
        ):
            ready = [each for each in pod["status"].get("conditions", ()) if each["type"] == "Ready"]
            at = ready[0].get("lastTransitionTime") if ready else None
            yield _trouble(Reason.POD_FAILED, _failed(pod), NODE.remedy), _instant(at, seen.now)


def _failed(pod: Object) -> str:
    """How a pod failed as a whole, or which of its containers did."""
    status = pod["status"]
    return f"pod {_name(pod)}: {_in_words(status.get('reason', ''), status.get('message', '')) or wait_of(pod) or 'failed'}"


def _not_ending(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each pod that should be gone by now."""
    for pod in seen.pods:
        due = _instant(pod["metadata"].get("deletionTimestamp"), seen.now) + _ENDING_S
        if due < seen.now:
            found = _trouble(
                Reason.POD_NOT_ENDING,
                f"pod {_name(pod)} is being deleted, and should have ended {pod['metadata']['deletionTimestamp']}",
                "see whether its node runs and which finalizers it has",
            )
            yield found, due


def _silent(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each ready worker that does not answer, or not as a worker does."""
    for name, (since, fault) in seen.silent.items():
        if seen.now - since >= UNREACHABLE_S:
            found = _trouble(
                Reason.WORKER_UNREACHABLE,
                f"worker {name} is ready, and does not answer the operator at port {MANAGEMENT_PORT}",
                "see whether its node and the network to it work (NetworkPolicies, security groups)",
            )
            yield invalid_answer(name, fault) if fault else found, since


def _instant(at: object, otherwise: float) -> float:
    return datetime.fromisoformat(str(at)).timestamp() if at else otherwise


# --- what Events say


def _pods_refused(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    """The Events of a controller about pods that it cannot create."""
    for event in _events(seen, "FailedCreate"):
        message = str(event.get("message", ""))
        answer = meaning_of_report(message)
        if answer is None or answer in (Answer.CONFLICT, Answer.EXISTS):
            continue  # the controller goes on by itself
        reason, remedy = REFUSALS[answer]
        if reason is Reason.QUOTA_EXCEEDED and event["involvedObject"].get("kind") == "Job":
            reason = Reason.MIGRATION_QUOTA_EXCEEDED
        yield _trouble(reason, message, remedy)


def _unstarted(seen: ClusterSnapshot) -> Iterator[tuple[Diagnosis, float]]:
    """Each pod that has not started, of which an Event says why; what is not known to be a cause comes last, as it is."""
    pods = {pod["metadata"]["uid"]: pod for pod in seen.pods if "nodeName" in pod.get("spec", {})}
    events = [
        event
        for event in _events(seen)
        if event["involvedObject"]["uid"] in pods and event.get("reason") not in NEVER_THE_CAUSE
    ]
    for event in sorted(events, key=lambda event: event.get("reason") not in EVENTS):
        pod, word = pods[event["involvedObject"]["uid"]], str(event.get("reason", ""))
        reason, remedy = EVENTS.get(word, Report(Reason.POD_NOT_STARTED, "see `kubectl describe pod`"))
        text = f"pod {_name(pod)} does not start: {_in_words(word, str(event.get('message', '')))}"
        yield _trouble(reason, text, remedy), _instant(pod["metadata"].get("creationTimestamp"), seen.now)


_FIRST: Final = "initContainerStatuses"
_CONTAINERS: Final = ((_FIRST, "init container"), ("containerStatuses", "container"))
"""The lists of containers in the status of a pod, and what one of each is called."""
_BEING_MADE: Final = ("", "ContainerCreating", "PodInitializing")
"""Words of a container that nothing keeps from its start."""


def _containers(seen: ClusterSnapshot) -> Iterator[tuple[Object, str, Object]]:
    """Each container of a pod that is to stay, with its pod and what it is called."""
    for pod in seen.pods:
        if "deletionTimestamp" not in pod["metadata"]:
            for field, what in _CONTAINERS:
                for container in pod.get("status", {}).get(field, ()):
                    yield pod, what, container


def _events(seen: ClusterSnapshot, reason: str | None = None) -> Iterator[Object]:
    """The Events with this reason, or any, about objects that exist and are not healthy, newest first."""
    # An Event about a pod that could not start is obsolete once the pod runs or has ended.
    unwell = {pod["metadata"]["uid"] for pod in seen.pods if _is_starting(pod)}
    for each in seen.children:
        status = each.get("status", {})
        if each["kind"] == "StatefulSet" and status.get("replicas", 0) < each["spec"].get("replicas", 1):
            unwell.add(each["metadata"]["uid"])
        if each["kind"] == "Job" and not status.get("active") and condition(each, "Complete") != "True":
            unwell.add(each["metadata"]["uid"])
    found = [
        event
        for event in seen.warnings
        if (reason is None or event.get("reason") == reason)
        and event.get("involvedObject", {}).get("uid") in unwell
        and seen.now - _last_seen_at(event) < _EVENT_MOST_S
    ]
    yield from sorted(found, key=_last_seen_at, reverse=True)


def _is_starting(pod: Mapping[str, Any]) -> bool:
    """Whether it has not started yet; a pod that ran before its node was restarted starts again."""
    phase = pod.get("status", {}).get("phase", "Pending")
    made = [waiting_reason(each) for each in pod.get("status", {}).get("containerStatuses", ())]
    return phase == "Pending" or (phase == "Running" and any(each in _BEING_MADE[1:] for each in made))


def _last_seen_at(event: Mapping[str, Any]) -> float:
    stamp = (
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
    return datetime.fromisoformat(str(stamp)).timestamp() if stamp else 0.0


def _name(subject: Mapping[str, Any]) -> str:
    return str(subject["metadata"]["name"])


def _in_words(word: str, message: str) -> str:
    """A word of Kubernetes with its message, as far as there are both."""
    return ": ".join(each for each in (word, message) if each)


def _trouble(reason: Reason, what: str, remedy: str) -> Diagnosis:
    return Diagnosis(reason, f"{_short(what)}. Remedy: {remedy}.")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_MOST else text[: _MESSAGE_MOST - 1] + "…"


_FINDERS: Final[Iterable[Callable[[ClusterSnapshot], Iterator[Diagnosis]]]] = (
    _claimed_by_other,
    _foreign_workers,
    _not_started,
    _secrets,
    _migration,
    _crashes,
    _pods_refused,
)
