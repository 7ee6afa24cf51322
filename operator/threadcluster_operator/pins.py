"""Pins, edited in the text of a resource: what a user says by command is kept where everything else that he wants is."""

import yaml

from threadcluster_operator.model import KIND


def with_pin(text: str, shard: int, worker: str | None) -> str:
    """A resource's text with a shard pinned to a worker, or with None to nobody; its other documents stay as they are.

    The text must be one that `parse_resources` accepts; the new one need not be.  Comments are lost.
    """
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    for document in documents:
        if document["kind"] == KIND:
            rebalance = document.setdefault("spec", {}).setdefault("rebalance", {})
            pins = [pin for pin in rebalance.get("pins", []) if pin["shard"] != shard]
            if worker is not None:
                pins.append({"shard": shard, "worker": worker})
            rebalance["pins"] = sorted(pins, key=lambda pin: pin["shard"])
    return yaml.safe_dump_all(documents, sort_keys=False)
