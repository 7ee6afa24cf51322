"""The same spec gives the same objects, byte for byte, in every release."""

import copy
import json
from typing import Any

import pytest

from tests.operator.render.golden import CLUSTERS, FOLDER, text_of
from tests.support.rendered_clusters import EVERYTHING, all_objects, cluster


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_objects_are_those_of_every_release(name: str) -> None:
    """A difference here restarts every worker, or cannot be applied at all: see `golden`."""
    assert (FOLDER / f"{name}.json").read_text() == text_of(name)


def test_nothing_is_shared_between_two_makings() -> None:
    """A change of one object in place changes no other."""
    wanted = cluster(EVERYTHING)
    first, second = all_objects(wanted), all_objects(wanted)
    before = copy.deepcopy(second)
    for made in first:
        spoil(made)
    assert second == before
    assert all_objects(wanted) == before


def spoil(value: Any) -> None:
    """Empty every map and list in it, the innermost first."""
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            spoil(part)
    value.clear()


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_object_says_whose_it_is_and_what_was_wanted(name: str) -> None:
    """Labels to select it by, an owner to be deleted with, and a hash that changes with it."""
    for made in json.loads((FOLDER / f"{name}.json").read_text()):
        metadata = made["metadata"]
        assert metadata["labels"]["app.kubernetes.io/name"] == "threadcluster"
        assert metadata["labels"]["app.kubernetes.io/instance"] == "chat"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "threadcluster-operator"
        [owner] = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (
            "ThreadCluster",
            "8f4c3b7a-0000-4000-8000-000000000001",
            True,
        )
        assert metadata["annotations"]["threadcluster.io/applied"]
