"""Reading Kubernetes objects that are not as complete as one would like."""

import pytest
from threadcluster_operator.controller.snapshot import (
    ClusterSnapshot,
    Object,
    condition,
    controller_of,
    members,
    ordinal_of,
    pod_of,
    secret_state_of,
    waiting_reason,
)
from threadcluster_operator.render import SecretState, SecretValue, selector_of


def test_a_condition_is_found_among_others_or_is_nothing() -> None:
    """By its type."""
    subject = {"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "B", "status": "True"}]}}
    assert [condition(subject, name) for name in ("A", "B", "C")] == ["False", "True", ""]
    assert condition({}, "A") == ""


def test_the_controller_is_the_one_owner_that_manages() -> None:
    """Other owners only keep it alive."""
    manages = {"kind": "ThreadCluster", "uid": "1", "controller": True}
    assert controller_of({"metadata": {"ownerReferences": [{"uid": "2"}, manages]}}) == manages
    assert controller_of({"metadata": {}}) == {}


@pytest.mark.parametrize(
    ("name", "ordinal"), [("chat-0", 0), ("chat-12", 12), ("chat-migrate-x7k2p", -1), ("chat", -1)], ids=str
)
def test_an_ordinal_is_read_from_the_end_of_the_name(name: str, ordinal: int) -> None:
    """A pod that has none belongs behind no number."""
    assert pod_of({"metadata": {"name": name}}).ordinal == ordinal


@pytest.mark.parametrize(
    ("container", "starting"),
    [
        ({}, True),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, True),
        ({"state": {"waiting": {"reason": "PodInitializing"}}}, True),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, False),
        ({"restartCount": 1, "state": {"running": {}}}, False),
    ],
    ids=["running", "creating", "initializing", "no-image", "restarted"],
)
def test_a_pod_is_starting_while_nothing_says_that_it_fails(container: dict[str, object], starting: bool) -> None:
    """Its share of the shards waits for it meanwhile."""
    pod = {
        "metadata": {"name": "chat-0"},
        "spec": {"nodeName": "node"},
        "status": {"containerStatuses": [container]},
    }
    assert pod_of(pod).starting is starting
    assert pod_of({**pod, "spec": {}}).starting is False
    assert waiting_reason(container) in ("", "ContainerCreating", "PodInitializing", "ImagePullBackOff")


@pytest.mark.parametrize(
    ("first", "starting"),
    [
        ({"ready": False, "state": {"running": {}}}, True),
        ({"ready": True, "restartCount": 2, "state": {"terminated": {"exitCode": 0}}}, True),
        ({"ready": False, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}, False),
        ({"ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}, False),
    ],
    ids=["runs", "has ended well at last", "ends again and again", "no image"],
)
def test_a_pod_whose_init_container_fails_is_not_starting(first: dict[str, object], starting: bool) -> None:
    """No shard waits for a worker that it keeps from its start."""
    container = {"state": {"waiting": {"reason": "PodInitializing"}}}
    status = {"containerStatuses": [container], "initContainerStatuses": [first]}
    assert pod_of({"metadata": {"name": "chat-0"}, "spec": {"nodeName": "node"}, "status": status}).starting is starting


def test_a_pod_that_says_nothing_has_no_revision_and_no_address() -> None:
    """Both come later: the revision with the StatefulSet's label, the address with the node."""
    bare = pod_of({"metadata": {"name": "chat-0"}})
    assert (bare.revision, bare.address) == ("", None)
    labels = {"controller-revision-hash": "chat-5d9"}
    found = pod_of({"metadata": {"name": "chat-0", "labels": labels}, "status": {"podIP": "fd00::7"}})
    assert (found.revision, found.address) == ("chat-5d9", "fd00::7")


def test_the_workers_are_the_pods_with_every_label_of_a_worker() -> None:
    """The migration's pod has all of them but the component; the workers come in the order of their ordinals."""
    pods: list[Object] = [
        {"metadata": {"name": "chat-10", "labels": {**selector_of("chat", "worker"), "team": "a"}}},
        {"metadata": {"name": "chat-migrate-x7k2p", "labels": dict(selector_of("chat", "migration"))}},
        {"metadata": {"name": "chat-2", "labels": dict(selector_of("chat", "worker"))}},
        {"metadata": {"name": "talk-0", "labels": dict(selector_of("talk", "worker"))}},
        {"metadata": {"name": "stray", "labels": None}},
    ]
    resource = {"metadata": {"name": "chat", "namespace": "talk"}}
    seen = ClusterSnapshot(resource, (), tuple(pods), (), None, None, 0.0)
    assert [pod.name for pod in seen.workers()] == ["chat-2", "chat-10"]


def owned_by(name: str, kind: str = "", uid: str = "") -> Object:
    """A pod with a controller, or none."""
    owners = [{"kind": kind, "uid": uid, "controller": True}] if kind else []
    return {"kind": "Pod", "metadata": {"name": name, "ownerReferences": owners}}


CHILDREN = (
    {"kind": "StatefulSet", "metadata": {"name": "chat", "uid": "set"}},
    {"kind": "Job", "metadata": {"name": "chat-migrate-1", "uid": "job"}},
    {"kind": "Service", "metadata": {"name": "chat", "uid": "service"}},
)


@pytest.mark.parametrize(
    ("pod", "with_set", "without"),
    [
        (owned_by("chat-0", "StatefulSet", "set"), True, False),
        (owned_by("chat-migrate-1-x", "Job", "job"), True, True),
        (owned_by("chat-0", "StatefulSet", "of-an-earlier-one"), False, False),
        (owned_by("chat-migrate-0-x", "Job", "of-an-earlier-one"), False, False),
        (owned_by("chat-0", "Service", "service"), False, False),
        (owned_by("chat-0"), False, True),
        (owned_by("debugging"), False, False),
        (owned_by("chat-debugging"), False, False),
        (owned_by("other-0", "StatefulSet", "set"), False, False),
    ],
    ids=[
        "worker",
        "migration",
        "another-set",
        "another-job",
        "another-kind",
        "left-behind",
        "bare",
        "bare-of-its-name",
        "another-name",
    ],
)
def test_a_pod_belongs_to_a_cluster_by_its_controller(pod: Object, with_set: bool, without: bool) -> None:
    """Labels are anyone's to write.  A worker that a StatefulSet has left behind is its successor's, by its name."""
    assert members("chat", CHILDREN, [pod]) == ((pod,) if with_set else ())
    assert members("chat", CHILDREN[1:], [pod]) == ((pod,) if without else ())


@pytest.mark.parametrize(
    ("worker", "ordinal"),
    [
        ("chat-0", 0),
        ("chat-12", 12),
        ("chat", None),
        ("chat-x", None),
        ("chat-1-0", None),
        ("other-1", None),
        ("", None),
    ],
)
def test_a_worker_is_numbered_by_its_name(worker: str, ordinal: int | None) -> None:
    """Of just this cluster."""
    assert ordinal_of("chat", worker) == ordinal


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (None, None),
        ({}, None),
        (
            {"secret": {"values": [{"generation": 1, "operatorKey": "a"}]}},
            SecretState((SecretValue(1, "a"),), made=False),
        ),
        (
            {
                "secret": {
                    "values": [{"generation": 2, "operatorKey": "a"}, {"generation": 1, "operatorKey": "b"}],
                    "made": True,
                }
            },
            SecretState((SecretValue(2, "a"), SecretValue(1, "b")), made=True),
        ),
    ],
)
def test_the_secrets_are_as_the_status_records_them(status: object, state: SecretState | None) -> None:
    """In the order in which the values sign."""
    assert secret_state_of({} if status is None else {"status": status}) == state
