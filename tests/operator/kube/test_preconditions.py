"""The state of an object that a write was decided on, as the API server checks it."""

from threadcluster_operator.kube.preconditions import Preconditions


def test_the_state_that_was_judged_is_part_of_the_patch() -> None:
    """By uid and version, whatever else the object has."""
    seen = {"metadata": {"uid": "1", "resourceVersion": "7", "name": "chat"}, "spec": {}}
    assert Preconditions.of(seen) == Preconditions("1", "7")
    assert Preconditions.of(seen).metadata == {"uid": "1", "resourceVersion": "7"}
