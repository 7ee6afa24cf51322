"""Pins, edited in a resource's text."""

import pytest
import yaml
from threadcluster_operator.api import parse_resources
from threadcluster_operator.api.pins import pinned, with_pin, wrong_pin

TEXT = """
# of a user
kind: Secret
metadata: {name: db}
stringData: {url: "postgresql://x"}
---
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {name: c}
"""


def pins(text: str) -> list[tuple[int, str]]:
    """The pins in a text."""
    return [(pin.shard, pin.worker) for pin in parse_resources(text, "text").cluster.spec.rebalance.pins]


def test_pins_come_go_and_change() -> None:
    """In the order of their shards; one a shard."""
    text = TEXT
    for shard, worker, wanted in (
        (7, "c-1", [(7, "c-1")]),
        (3, "c-0", [(3, "c-0"), (7, "c-1")]),
        (7, "c-2", [(3, "c-0"), (7, "c-2")]),
        (3, None, [(7, "c-2")]),
        (3, None, [(7, "c-2")]),
        (7, None, []),
    ):
        text = with_pin(text, shard, worker)
        assert pins(text) == wanted


def test_everything_else_stays() -> None:
    """The Secret, and the user's settings of moves."""
    text = with_pin(TEXT + "spec: {replicas: 5, rebalance: {mode: Manual}}\n---\n", 1, "c-0")
    secret, cluster = yaml.safe_load_all(text)
    assert secret["stringData"] == {"url": "postgresql://x"}
    assert cluster["spec"] == {"replicas": 5, "rebalance": {"mode": "Manual", "pins": [{"shard": 1, "worker": "c-0"}]}}
    assert list(cluster["spec"]) == ["replicas", "rebalance"]


def test_a_list_of_pins_is_in_order_with_one_a_shard() -> None:
    """The list of before is left alone."""
    before = [{"shard": 10, "worker": "c-0"}, {"shard": 9, "worker": "c-1"}]
    assert pinned(before, 10, "c-2") == [{"shard": 9, "worker": "c-1"}, {"shard": 10, "worker": "c-2"}]
    assert pinned(before, 9, None) == [{"shard": 10, "worker": "c-0"}]
    assert before == [{"shard": 10, "worker": "c-0"}, {"shard": 9, "worker": "c-1"}]


@pytest.mark.parametrize(
    ("shard", "worker", "workers", "wrong"),
    [
        (0, "c-0", ["c-0"], None),
        (7, "c-1", ["c-0", "c-1"], None),
        (0, None, [], None),
        (7, None, ["c-0"], None),
        (8, "c-0", ["c-0"], "there is no shard 8; the cluster has shards 0 to 7"),
        (-1, None, ["c-0"], "there is no shard -1; the cluster has shards 0 to 7"),
        (0, "c-2", ["c-0", "c-1"], "no worker is called 'c-2'; there are c-0, c-1"),
        (8, "c-0", [], "no worker is called 'c-0'; there are none"),
    ],
)
def test_a_wrong_pin_is_refused_with_what_there_is(
    shard: int, worker: str | None, workers: list[str], wrong: str | None
) -> None:
    """A pin is taken back whatever workers there are."""
    assert wrong_pin(shard, worker, shards=8, workers=workers) == wrong
