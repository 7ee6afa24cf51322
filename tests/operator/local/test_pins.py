"""Pins, edited in a resource's text."""

import yaml
from threadcluster_operator.api import parse_resources
from threadcluster_operator.api.pins import with_pin

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
    text = with_pin(TEXT + "spec: {replicas: 5, rebalance: {mode: Manual}}", 1, "c-0")
    secret, cluster = yaml.safe_load_all(text)
    assert secret["stringData"] == {"url": "postgresql://x"}
    assert cluster["spec"] == {"replicas": 5, "rebalance": {"mode": "Manual", "pins": [{"shard": 1, "worker": "c-0"}]}}
