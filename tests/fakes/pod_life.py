"""Reports of a kubelet about a pod: pure, so that the fake kubelet decides nothing.

A pod's life here is a list of steps, each due some time after the pod was bound; the fake kubelet reports the last one
that is due.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

Object = dict[str, Any]  # a Kubernetes object, or part of one

_MESSAGES: Final = {
    "ContainerCreating": "",
    "PodInitializing": "",
    "ImagePullBackOff": "Back-off pulling image",
    "CrashLoopBackOff": "back-off 10s restarting failed container",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How pods behave; the defaults are those of a program that works."""

    starts: Literal["well", "never", "crashing", "image missing"] = "well"
    """``never``: the containers stay in ContainerCreating."""
    waits: str = ""
    """The word with which the containers wait, whatever the other fields are."""
    first_waits: str = ""
    """The word with which the first init container waits, of a pod that has one; the others wait for it."""
    ends: str = "Error"
    """The word for the end of a container that fails."""
    start_s: float = 0.0
    """How long a container takes to start."""
    becomes_ready: bool = True
    ready_s: float = 0.0
    """How long after its start a pod is ready."""
    exit_code: int = 0
    """Of containers that end: those of Jobs, and those that crash."""
    message: str = ""
    """Their termination message."""
    runs_s: float = 0.0
    """How long a Job's containers run."""
    runs_on: tuple[str, ...] = ()
    """Containers that do not end when the others do."""
    stop_s: float = 0.0
    """How long a pod takes to end when it is deleted, if its grace is not shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The report at a time after the pod was bound."""

    after_s: float
    status: Object
    ready: bool = False


def life(pod: Object, behaviour: Behaviour, *, ip: str, now: Callable[[float], str]) -> Iterator[Step]:
    """The steps of a pod on a node, in order.  ``now`` gives the instant of a number of seconds after it was bound."""
    begun, started = now(0.0), now(behaviour.start_s)
    if behaviour.waits:
        waits: Object = {"state": {"waiting": {"reason": behaviour.waits, "message": behaviour.message}}}
        yield Step(after_s=0.0, status=_status(pod, "Pending", ip, begun, waits, False))
    elif behaviour.first_waits and pod["spec"].get("initContainers"):
        report = _status(pod, "Pending", ip, begun, _waiting("PodInitializing"), False)
        waits = {"waiting": {"reason": behaviour.first_waits, "message": behaviour.message}}
        report["initContainerStatuses"][0].update({"ready": False, "restartCount": 3, "state": waits})
        yield Step(after_s=0.0, status=report)
    elif behaviour.starts == "never":
        yield Step(after_s=0.0, status=_status(pod, "Pending", ip, begun, _waiting("ContainerCreating"), False))
    elif behaviour.starts == "image missing":
        yield Step(after_s=0.0, status=_status(pod, "Pending", ip, begun, _waiting("ImagePullBackOff"), False))
    elif behaviour.starts == "crashing" or (_ends(pod) == "OnFailure" and behaviour.exit_code):
        crashed = _waiting("CrashLoopBackOff") | {
            "lastState": {"terminated": _terminated(behaviour, behaviour.exit_code or 1, begun, started)},
            "restartCount": 3,
        }
        yield Step(after_s=behaviour.start_s, status=_status(pod, "Running", ip, begun, crashed, False))
    else:
        running: Object = {"state": {"running": {"startedAt": started}}, "started": True}
        yield Step(after_s=behaviour.start_s, status=_status(pod, "Running", ip, begun, running, False))
        if _ends(pod):
            after_s = behaviour.start_s + behaviour.runs_s
            ended = {"state": {"terminated": _terminated(behaviour, behaviour.exit_code, started, now(after_s))}}
            phase = "Failed" if behaviour.exit_code else "Succeeded"
            report = _status(pod, phase, ip, begun, ended, False)
            if behaviour.runs_on:
                report["phase"] = "Running"
                for each in report["containerStatuses"]:
                    if each["name"] in behaviour.runs_on:
                        each.update(running, ready=True)
            yield Step(after_s=after_s, status=report)
        elif behaviour.becomes_ready:
            after_s = behaviour.start_s + behaviour.ready_s
            yield Step(
                after_s=after_s, status=_status(pod, "Running", ip, begun, running, True, now(after_s)), ready=True
            )


def _ends(pod: Object) -> str | None:
    """Restart policy of a pod that should end; None for a pod that should keep running."""
    policy: str = pod["spec"].get("restartPolicy", "Always")
    return None if policy == "Always" else policy


def _status(
    pod: Object, phase: str, ip: str, begun: str, container: Object, ready: bool, since: str | None = None
) -> Object:
    """A pod's whole status; ``container`` says how each of its containers is."""
    spec = pod["spec"]
    first = [
        {"name": each["name"], "image": each["image"], "imageID": each["image"], "restartCount": 0, "ready": True}
        | {"state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": begun, "finishedAt": begun}}}
        for each in spec.get("initContainers", ())
    ]
    containers = [
        {"name": each["name"], "image": each["image"], "imageID": each["image"], "restartCount": 0, "started": False}
        | {"ready": ready}
        | container
        for each in spec["containers"]
    ]
    facts = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    conditions = [
        {"type": name, "status": str(holds), "lastTransitionTime": since or begun}
        | ({} if holds else {"reason": "ContainersNotReady"})
        for name, holds in facts.items()
    ]
    return {
        "phase": phase,
        "hostIP": "10.200.255.254",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": begun,
        "conditions": conditions,
        "initContainerStatuses": first,
        "containerStatuses": containers,
    }


def _waiting(reason: str) -> Object:
    return {"state": {"waiting": {"reason": reason, "message": _MESSAGES[reason]}}}


def _terminated(behaviour: Behaviour, exit_code: int, begun: str, ended: str) -> Object:
    return {
        "exitCode": exit_code,
        "reason": behaviour.ends if exit_code else "Completed",
        "message": behaviour.message,
        "startedAt": begun,
        "finishedAt": ended,
    }
