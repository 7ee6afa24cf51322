"""`threadcluster shards`: who owns what."""

import json

import click

from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.table import table
from threadcluster_operator.workers.client import Document

_FIELDS = ("id", "owner", "incarnation", "epoch", "state", "target", "load", "reason", "since")


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
        rows = [{field: row[field] for field in _FIELDS} for row in found["shards"]]
        click.echo(json.dumps({"planVersion": found["planVersion"], "shards": rows}, indent=2))
        return
    wide = output == "wide"
    heads = ["SHARD", "OWNER", "STATE", "TARGET", "EPOCH"]
    heads += ["COMMANDS/S", "APPEND MS", "INCARNATION", "SINCE", "REASON"] if wide else []
    click.echo(table([heads, *(_row(row, wide=wide) for row in found["shards"])]))


def _row(row: Document, *, wide: bool) -> list[object]:
    cells = [row["id"], row["owner"], row["state"], row["target"], row["epoch"]]
    if wide:
        load = row["load"]
        cells += [
            load["commandsPerSecond"],
            load["appendMilliseconds"],
            row["incarnation"],
            row["since"],
            row["reason"],
        ]
    return cells
