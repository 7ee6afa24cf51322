"""Reports of the fake kubelet about a pod, step by step."""

import pytest

from tests.fakes.pod_life import Behaviour, Object, Step, life

_RUNS_ON = {"spec": {"containers": [{"name": "worker", "image": "one:1"}]}}
_IS_TRIED_ONCE = {"spec": {"restartPolicy": "Never", "containers": [{"name": "migrate", "image": "one:1"}]}}
_IS_TRIED_AGAIN = {"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "migrate", "image": "one:1"}]}}


def _life(pod: Object, behaviour: Behaviour) -> list[Step]:
    return list(life(pod, behaviour, ip="10.200.0.7", now=lambda after_s: f"at {after_s:g} s"))


def _last(pod: Object, behaviour: Behaviour) -> Object:
    return _life(pod, behaviour)[-1].status


def test_a_pod_starts_and_becomes_ready_later() -> None:
    """Each in its time, and the condition tells since when."""
    started, ready = _life(_RUNS_ON, Behaviour(start_s=1, ready_s=2))
    assert (started.after_s, started.ready, started.status["phase"]) == (1, False, "Running")
    assert (ready.after_s, ready.ready) == (3, True)
    condition = next(each for each in ready.status["conditions"] if each["type"] == "Ready")
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", "at 3 s")
    assert ready.status["containerStatuses"][0]["image"] == "one:1"


def test_a_pod_that_never_becomes_ready_only_starts() -> None:
    """There is no further step."""
    (started,) = _life(_RUNS_ON, Behaviour(becomes_ready=False))
    assert not started.ready


def test_init_containers_have_ended_when_the_others_run() -> None:
    """As on a node."""
    pod = {"spec": _RUNS_ON["spec"] | {"initContainers": [{"name": "first", "image": "zero:1"}]}}
    (first,) = _last(pod, Behaviour())["initContainerStatuses"]
    assert first["state"]["terminated"]["exitCode"] == 0


@pytest.mark.parametrize(
    ("behaviour", "phase", "reason"),
    [
        (Behaviour(starts="never"), "Pending", "ContainerCreating"),
        (Behaviour(starts="image missing"), "Pending", "ImagePullBackOff"),
        (Behaviour(starts="crashing"), "Running", "CrashLoopBackOff"),
        (Behaviour(waits="RunContainerError"), "Pending", "RunContainerError"),
    ],
    ids=["never", "image missing", "crashing", "a word"],
)
def test_a_pod_in_trouble_waits_with_a_reason(behaviour: Behaviour, phase: str, reason: str) -> None:
    """And is not ready."""
    status = _last(_RUNS_ON, behaviour)
    (container,) = status["containerStatuses"]
    assert (status["phase"], container["state"]["waiting"]["reason"], container["ready"]) == (phase, reason, False)


def test_an_init_container_keeps_the_others_waiting() -> None:
    """In a pod that has none nothing waits."""
    pod = {"spec": _RUNS_ON["spec"] | {"initContainers": [{"name": "first", "image": "zero:1"}]}}
    status = _last(pod, Behaviour(first_waits="CrashLoopBackOff"))
    (first,), (container,) = status["initContainerStatuses"], status["containerStatuses"]
    assert (first["ready"], first["state"]["waiting"]["reason"]) == (False, "CrashLoopBackOff")
    assert container["state"]["waiting"]["reason"] == "PodInitializing"
    assert _last(_RUNS_ON, Behaviour(first_waits="CrashLoopBackOff"))["phase"] == "Running"


@pytest.mark.parametrize(("exit_code", "phase"), [(0, "Succeeded"), (4, "Failed")], ids=["well", "badly"])
def test_a_jobs_pod_ends(exit_code: int, phase: str) -> None:
    """With its exit code and message, after it ran for its time."""
    running, ended = _life(_IS_TRIED_ONCE, Behaviour(exit_code=exit_code, message="why", runs_s=5))
    assert (running.status["phase"], ended.status["phase"], ended.after_s) == ("Running", phase, 5)
    terminated = ended.status["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"], terminated["finishedAt"]) == (exit_code, "why", "at 5 s")


def test_a_jobs_pod_that_is_tried_again_loops() -> None:
    """Its message is that of the attempt before."""
    (container,) = _last(_IS_TRIED_AGAIN, Behaviour(exit_code=4, message="why"))["containerStatuses"]
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["lastState"]["terminated"]["message"] == "why"
