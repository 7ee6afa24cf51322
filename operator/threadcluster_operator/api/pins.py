"""Pins, edited in the text of a resource: what a user says by command is kept where everything else that he wants is."""

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from threadcluster_operator.api import KIND


def with_pin(text: str, shard: int, worker: str | None) -> str:
    """A resource's text with a shard pinned to a worker, or with None unpinned; its other documents stay as they are.

    The text must be one that `parse_resources` accepts; the new one need not be.  Comments are lost.
    """
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    for document in documents:
        if document["kind"] == KIND:
            rebalance = document.setdefault("spec", {}).setdefault("rebalance", {})
            rebalance["pins"] = pinned(rebalance.get("pins", []), shard, worker)
    return yaml.safe_dump_all(documents, sort_keys=False)


def pinned(pins: Iterable[dict[str, Any]], shard: int, worker: str | None) -> list[dict[str, Any]]:  # YAML's own
    """The list of a resource's pins with a shard pinned to a worker, or with None unpinned, in order."""
    others = [pin for pin in pins if pin["shard"] != shard]
    mine = [] if worker is None else [{"shard": shard, "worker": worker}]
    return sorted([*others, *mine], key=lambda pin: int(pin["shard"]))


def wrong_pin(shard: int, worker: str | None, *, shards: int, workers: Sequence[str]) -> str | None:
    """Why a shard of a cluster of ``shards`` cannot be pinned to a worker, or unpinned; None where it can."""
    if worker is not None and worker not in workers:
        return f"no worker is called {worker!r}; there are {', '.join(workers) or 'none'}"
    if not 0 <= shard < shards:
        return f"there is no shard {shard}; the cluster has shards 0 to {shards - 1}"
    return None
