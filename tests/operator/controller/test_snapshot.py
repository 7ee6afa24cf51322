"""Reading Kubernetes objects that are not as complete as one would like."""

import pytest
from threadcluster_operator.controller.snapshot import condition, controller_of, pod_of, secret_state_of, waiting_reason
from threadcluster_operator.render import SecretState, SecretValue


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
