"""The status of a cluster in many situations, as users and their tools read it.

`python -m tests.operator.controller.status_golden` writes the file: the status of a cluster at rest, and of each other
situation the fields and conditions that differ from it.  A changed reason breaks ``kubectl wait`` and alerts.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller.diagnosis import Diagnosis, examine, lasting_outage
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot
from threadcluster_operator.controller.status import status_of
from threadcluster_operator.planning.freshness import Outage
from threadcluster_operator.planning.planner import NewPlan

from shard_worker.domain.ids import ShardId
from tests.operator.controller.simulated import NAME, Simulation, settle

FILE: Final = Path(__file__).parent / "golden" / "status.json"
_Status = dict[str, Any]  # JSON
_TROUBLE: Final = Diagnosis(Reason.QUOTA_EXCEEDED, "pods is forbidden: exceeded quota. Remedy: raise it.")
_NEW: Final[dict[str, Any]] = {"updateRevision": "new", "currentRevision": "old"}


def at_rest(**spec: Any) -> Simulation:
    """A cluster that is Ready, whose spec is then edited without an effect yet."""
    made = copy.deepcopy(_settled())
    if spec:
        made.edit(**spec)
    return made


@cache
def _settled() -> Simulation:
    made = Simulation()
    settle(made)
    made._past.clear()  # it would be copied each time
    return made


def status(
    simulation: Simulation,
    *,
    seen: ClusterSnapshot | None = None,
    trouble: Diagnosis | None = None,
    without_spec: bool = False,
    **steps: Any,
) -> _Status:
    """The status of a snapshot, after the last actions changed so."""
    seen = (seen or simulation.look())._replace(now=1_000_000.0)
    actions = simulation.last._replace(**steps)
    spec = None if without_spec else parse_spec(seen.resource)
    return status_of(seen, spec, actions, trouble, examine(seen).wait)


def with_set(simulation: Simulation, *, generation: int | None = None, **status: Any) -> ClusterSnapshot:
    """The cluster with another status of its StatefulSet."""
    live = simulation.stateful_set
    assert live is not None
    live["status"] |= status
    if generation is not None:
        live["metadata"]["generation"] = generation
    return simulation.look()


def with_ownership(simulation: Simulation, **changes: Any) -> ClusterSnapshot:
    """The cluster, where the workers report something else."""
    seen = simulation.look()
    assert seen.ownership is not None
    return seen._replace(ownership=seen.ownership._replace(**changes))


def with_worker(simulation: Simulation, ordinal: int, **changes: Any) -> ClusterSnapshot:
    """The cluster with a worker of another state."""
    seen, name = simulation.look(), f"{NAME}-{ordinal}"
    assert seen.ownership is not None
    workers = {**seen.ownership.workers, name: seen.ownership.workers[name]._replace(**changes)}
    return with_ownership(simulation, workers=workers)


def owners_with(simulation: Simulation, *free: int) -> dict[ShardId, str | None]:
    """The owners, where some shards have none."""
    seen = simulation.look()
    assert seen.ownership is not None
    return {**seen.ownership.owners, **{ShardId(number): None for number in free}}


def fewer_pods(simulation: Simulation, count: int) -> ClusterSnapshot:
    """The cluster with its first pods alone."""
    seen = simulation.look()
    return seen._replace(pods=seen.pods[:count])


def with_pod(simulation: Simulation, ordinal: int, **changes: Any) -> ClusterSnapshot:
    """The cluster with a pod of another state."""
    pod = simulation.pods[f"{NAME}-{ordinal}"]
    pod["metadata"] |= changes.pop("metadata", {})
    pod["status"] |= changes
    return simulation.look()


def _begun() -> Simulation:
    made = Simulation()
    made.operate()
    made.resource.pop("status")
    return made


def _with_service(ingress: list[dict[str, str]]) -> Simulation:
    made = at_rest()
    made.objects["Service", NAME]["status"] = {"loadBalancer": {"ingress": ingress}}
    return made


_NOT_READY: Final = [{"type": "Ready", "status": "False"}]
_ENDING: Final = {"deletionTimestamp": "2026-05-01T12:00:00Z"}


def situations() -> Iterator[tuple[str, _Status]]:
    """Each with its status."""
    yield "at rest", status(at_rest())
    yield from _beginnings()
    yield from _pauses()
    yield from _rollouts_and_sizes()
    yield from _shards()
    yield from _waits()
    yield from _workers()
    yield from _endpoints()


def _beginnings() -> Iterator[tuple[str, _Status]]:
    begun = _begun()
    yield "before the first worker", status(begun)
    yield "migrated, before the first worker", status(begun, migrating=False, create=(), apply=())
    yield "migrating", status(at_rest(), settled=False, migrating=True)
    yield "objects to create", status(at_rest(), settled=False, create=({"kind": "Service"},))
    yield "objects to change", status(at_rest(), settled=False, apply=(({"kind": "Service"}, "uid"),))
    yield "objects to delete", status(at_rest(), settled=False, delete=({"kind": "Service"},))
    yield "stalled", status(at_rest(), trouble=_TROUBLE)
    yield "blocked", status(at_rest(), settled=False, blocked=_TROUBLE, trouble=Diagnosis(Reason.FORBIDDEN, "no"))
    yield "a long message", status(at_rest(), trouble=Diagnosis(Reason.FORBIDDEN, "x" * 1025))
    yield "spec not understood", status(at_rest(), trouble=_TROUBLE, without_spec=True)
    yield "nothing known, spec not understood", status(_begun(), trouble=_TROUBLE, without_spec=True)


def _pauses() -> Iterator[tuple[str, _Status]]:
    yield "paused", status(at_rest(paused=True))
    yield "paused with something to do", status(at_rest(paused=True), settled=False)
    yield "rollout paused", status(at_rest(rollout={"paused": True}))
    yield "rebalance paused", status(at_rest(rebalance={"mode": "Paused"}))
    yield "stopped", status(at_rest(replicas=0), seen=at_rest(replicas=0).look()._replace(pods=()))
    yield "stopping", status(at_rest(replicas=0), settled=False)
    yield (
        "autoscaling",
        status(at_rest(autoscaling={"minReplicas": 1, "maxReplicas": 3, "targetCommandsPerSecond": 9})),
    )


def _rollouts_and_sizes() -> Iterator[tuple[str, _Status]]:
    one = at_rest()
    yield "controller has not acted", status(one, seen=with_set(one, generation=9), settled=False)
    one = at_rest()
    yield "rolling out", status(one, seen=with_set(one, **_NEW), settled=False)
    one = at_rest()
    yield (
        "rolling out and waiting",
        status(one, seen=with_set(one, **_NEW), settled=False, blocked_reason="chat-2 waits"),
    )
    one = at_rest()
    yield "controller never acted", status(one, seen=with_set(one, observedGeneration=0), settled=False)
    one = at_rest(replicas=4)
    yield "scaling up", status(one, settled=False)
    one = at_rest(replicas=4)
    yield (
        "scaling up beside a worker that starts",
        status(one, seen=with_pod(one, 2, conditions=_NOT_READY), settled=False),
    )
    one = at_rest()
    with_set(one, generation=1)
    del one.objects["StatefulSet", NAME]["status"]["observedGeneration"]
    yield "controller has not reported a generation", status(one, seen=one.look(), settled=False)
    one = at_rest()
    with_set(one, observedGeneration=1)
    del one.objects["StatefulSet", NAME]["metadata"]["generation"]
    yield "set without a generation", status(one, seen=one.look(), settled=False)
    one = at_rest(replicas=2)
    yield "scaling down", status(one, settled=False, blocked_reason="chat-2 still has shards")
    one = at_rest()
    for pod in one.pods.values():
        pod["status"]["conditions"] = _NOT_READY
    yield "no worker of two is ready", status(one, seen=fewer_pods(one, 2), settled=False)
    one = at_rest()
    yield "a worker is missing", status(one, seen=fewer_pods(one, 2), settled=False)


def _shards() -> Iterator[tuple[str, _Status]]:
    one = at_rest()
    yield "not settled", status(one, settled=False)
    yield "shards without an owner", status(one, seen=with_ownership(one, owners=owners_with(one, 0, 1, 7)))
    steps = one.last.next
    assert steps is not None
    unreadable = steps._replace(unreadable=(ShardId(3), ShardId(4)))
    seen = with_ownership(one, owners=owners_with(one, 3, 4))
    yield "shards that no worker reads", status(one, seen=seen, settled=False, next=unreadable)
    yield "shards not served yet", status(one, seen=with_ownership(one, serving={}), settled=False)
    yield "no answer", status(one, seen=one.look()._replace(ownership=None))
    begun = _begun()
    yield "no answer yet", status(begun, seen=at_rest().look()._replace(ownership=None, resource=begun.resource))
    excess = {"chat-1": ("UPDATE", "DELETE"), "chat-0": ("DELETE",)}
    yield "excess privileges", status(one, seen=with_ownership(one, excess_privileges=excess))
    going = {shard: "chat-1" if shard < 2 else owner for shard, owner in owners_with(one).items()}
    plan = NewPlan(3, "abc", {ShardId(0): "chat-1"}, {ShardId(0): "why"}, 1)
    planned = steps._replace(plan=plan, imbalance_percent=12.6)
    yield (
        "moves planned",
        status(one, seen=with_ownership(one, targets=going), settled=False, next=planned, targets=plan),
    )
    yield "moves under way", status(one, seen=with_ownership(one, targets=going), settled=False)
    waiting = {**owners_with(one), ShardId(0): None}
    yield "a shard without a target", status(one, seen=with_ownership(one, targets=waiting), settled=False)
    yield (
        "moves that no plan was made for",
        status(one, seen=with_ownership(one, targets=going), settled=False, next=None),
    )
    begun = _begun()
    fresh = with_ownership(one)._replace(resource=begun.resource)
    yield "an answer for the first time", status(begun, seen=fresh)


def _waits() -> Iterator[tuple[str, _Status]]:
    one = at_rest()
    for reason, message in (
        ("DatabaseUnreachable", "no Postgres answers at db:5432/chat"),
        ("DatabaseAuthFailed", "Postgres at db:5432/chat refuses the login"),
        ("DatabaseTLSFailed", "the certificate of db:5432 is not believed"),
        ("DatabaseMisunderstood", ""),
    ):
        outage = Outage(reason, message, 999_990.0)
        away = one.look()._replace(ownership=None, outage=outage)
        yield f"no database: {reason}", status(one, seen=away, settled=False)
    away = one.look()._replace(ownership=None, outage=Outage("DatabaseUnreachable", "no answer", 999_940.0))
    stalled = lasting_outage(away._replace(now=1_000_000.0))
    assert stalled is not None
    yield "no database for a minute", status(one, seen=away, settled=False, trouble=stalled)
    yield "no database, and another trouble", status(one, seen=away, settled=False, trouble=_TROUBLE)
    paused = at_rest(paused=True)
    yield "no database while paused", status(paused, seen=paused.look()._replace(ownership=None, outage=away.outage))
    one = at_rest()
    unplaced = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    yield "a pod finds no node", status(one, seen=with_pod(one, 2, conditions=unplaced), settled=False)


def _workers() -> Iterator[tuple[str, _Status]]:
    one = at_rest()
    yield "a worker leaves", status(one, seen=with_worker(one, 1, leaving=True))
    yield "a worker drains", status(one, seen=with_worker(one, 1, draining=True))
    yield "a worker is cordoned", status(one, seen=with_worker(one, 1, cordoned=True))
    empty = with_worker(one, 1, leaving=True, draining=True)
    assert empty.ownership is not None
    moved = {shard: "chat-0" if owner == "chat-1" else owner for shard, owner in empty.ownership.owners.items()}
    yield (
        "a worker without shards leaves",
        status(one, seen=empty._replace(ownership=empty.ownership._replace(owners=moved))),
    )
    one = at_rest()
    yield "a pod ends", status(one, seen=with_pod(one, 2, metadata=_ENDING), settled=False)
    one = at_rest()
    yield "a pod starts", status(one, seen=with_pod(one, 2, conditions=_NOT_READY), settled=False)
    one = at_rest()
    failing = with_pod(one, 2, conditions=_NOT_READY, containerStatuses=[{"restartCount": 2}])
    yield "a pod fails", status(one, seen=failing, settled=False)
    one = at_rest()
    with_pod(one, 0, conditions=_NOT_READY)
    yield "two pods start", status(one, seen=with_pod(one, 2, conditions=_NOT_READY), settled=False)
    unregistered = one.look()
    assert unregistered.ownership is not None
    unregistered = unregistered._replace(ownership=unregistered.ownership._replace(workers={}))
    yield "workers that are not registered", status(one, seen=unregistered, settled=False)


def _endpoints() -> Iterator[tuple[str, _Status]]:
    yield "service with a port", status(at_rest(gateway={"service": {"port": 8080}}))
    yield "ingress", status(at_rest(gateway={"ingress": {"className": "nginx", "host": "chat.example"}}))
    tls = {"className": "nginx", "host": "chat.example", "tlsSecretName": "tls"}
    yield "ingress with TLS", status(at_rest(gateway={"ingress": tls}))
    yield "load balancer", status(_with_service([{}, {"hostname": "lb.example", "ip": "192.0.2.1"}]))
    one = _with_service([{"ip": "192.0.2.1"}])
    one.edit(gateway={"service": {"port": 8080}})
    yield "load balancer with a port", status(one)
    one = _with_service([{"ip": "2001:db8::1"}])
    yield "load balancer of IPv6", status(one)
    one.edit(gateway={"service": {"port": 8080}})
    yield "load balancer of IPv6 with a port", status(one)


def documents() -> _Status:
    """The file."""
    found: _Status = {}
    rest: _Status = {}
    for name, document in situations():
        conditions = {each.pop("type"): each for each in document["conditions"]}
        assert {each.pop("observedGeneration") for each in conditions.values()} == {document["observedGeneration"]}
        for each in document.get("workers", ()):
            each["revision"] = "of the present template" if each["revision"] == _newest() else each["revision"]
        if not rest:
            rest = found[name] = {**document, "conditions": conditions}
            continue
        changed = {key: value for key, value in document.items() if value != rest[key] and key != "conditions"}
        different = {key: each for key, each in conditions.items() if not _alike(each, rest["conditions"][key])}
        gone = {key: None for key in rest if key not in document}
        found[name] = {**changed, **gone, "conditions": different}
    return found


def _newest() -> str:
    live = _settled().stateful_set
    assert live is not None
    return str(live["status"]["updateRevision"])


def _alike(one: _Status, other: _Status) -> bool:
    return all(one[key] == other[key] for key in ("status", "reason", "message"))


def text() -> str:
    """The expected file."""
    return json.dumps(documents(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
