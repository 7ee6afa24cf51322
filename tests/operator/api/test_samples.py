"""The samples: each is a resource, and says what it shows."""

from pathlib import Path

import pytest
import yaml
from threadcluster_operator.api import KIND, ThreadClusterSpec, parse_resources, parse_spec

from tests.support.paths import LOCAL, SAMPLES


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_a_resource(path: Path) -> None:
    """The model takes it without an unknown field, and the operator takes it too, but for the local one."""
    text = path.read_text()
    read = parse_resources(text, path.name).cluster.spec
    (document,) = (each for each in yaml.safe_load_all(text) if each["kind"] == KIND)
    if path != LOCAL:
        assert parse_spec(document).model_dump() == read.model_dump()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_teaches(path: Path) -> None:
    """It begins with what it is for."""
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_asks_for_no_priority_of_the_system(path: Path) -> None:
    """Pods of that priority evict the nodes' own parts, and many namespaces refuse them."""
    assert "priorityClassName: system-" not in path.read_text()


def test_every_part_of_the_resource_is_in_a_sample() -> None:
    """A new part comes with an example."""
    shown: set[str] = set()
    for path in SAMPLES:
        shown |= parse_resources(path.read_text(), path.name).cluster.spec.model_fields_set
    assert set(ThreadClusterSpec.model_fields) - shown == set()
