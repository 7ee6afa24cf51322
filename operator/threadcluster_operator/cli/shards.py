"""`threadcluster shards`: the owner of each shard."""

import json
from typing import Final

import click
import msgspec

from shard_worker.contract_internal import ShardEntry
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.table import table

_FIELDS: Final = ("id", "owner", "incarnation", "epoch", "state", "target", "load", "reason", "since")
"""Of the output as JSON, in order."""


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table", show_default=True)
@with_cluster
async def shards(cluster: Cluster, output: str) -> None:
    """Show every shard: its owner, whether it is being moved, and where the plan wants it.

    A shard is `serving`, `moving` (its target is another worker) or `unowned`. The epoch counts its changes of owner. With
    -o wide also the load (commands a second, milliseconds an append), since when, and why it is where it is.
    """
    found = await cluster.workers.ownership()
    if output == "json":
        documents = [msgspec.to_builtins(shard) for shard in found.shards]
        rows = [{field: document[field] for field in _FIELDS} for document in documents]
        click.echo(json.dumps({"planVersion": found.plan_version, "shards": rows}, indent=2))
        return
    wide = output == "wide"
    heads = ["SHARD", "OWNER", "STATE", "TARGET", "EPOCH"]
    heads += ["COMMANDS/S", "APPEND MS", "INCARNATION", "SINCE", "REASON"] if wide else []
    click.echo(table([heads, *(_row(shard, wide=wide) for shard in found.shards)]))


def _row(shard: ShardEntry, *, wide: bool) -> list[object]:
    cells: list[object] = [shard.id, shard.owner, shard.state, shard.target, shard.epoch]
    if wide:
        cells += [
            shard.load.commands_per_second,
            shard.load.append_milliseconds,
            shard.incarnation,
            shard.since,
            shard.reason,
        ]
    return cells
