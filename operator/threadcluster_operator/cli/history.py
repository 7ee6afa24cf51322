"""`threadcluster history`: how shards came to be where they are."""

import json

import click
import msgspec

from shard_worker.contract_internal import HISTORY_MOST
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.table import table


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, HISTORY_MOST), default=20, show_default=True, help="How many changes at most."
)
@click.option("--shard", type=click.IntRange(0), help="Of this shard alone.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_cluster
async def history(cluster: Cluster, limit: int, shard: int | None, output: str) -> None:
    """Show the last changes of owner, the newest first: from whom to whom, why, and how long the shard stood still.

    A `handoff` is a move from one live worker to another, a `takeover` one off a worker that died. The pause of a handoff is
    how long the shard admitted nothing; no request fails for it.
    """
    changes = await cluster.workers.history(limit, shard)
    if output == "json":
        click.echo(json.dumps({"changes": msgspec.to_builtins(changes)}, indent=2))
        return
    rows: list[list[object]] = [["AT", "SHARD", "FROM", "TO", "KIND", "EPOCH", "PAUSE MS", "REASON"]]
    rows += [
        [each.at, each.shard, each.source, each.to, each.kind, each.epoch, each.pause_ms, each.reason]
        for each in changes
    ]
    click.echo(table(rows))
