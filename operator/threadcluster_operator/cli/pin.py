"""`threadcluster pin`: shards that belong on one worker, whatever balance says."""

import click

from threadcluster_operator.api.pins import wrong_pin
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster


@click.command()
@click.argument("shard", type=click.IntRange(0))
@click.argument("worker", required=False)
@click.option(
    "--remove", is_flag=True, help="Remove the pin of SHARD; the shard stays where it is until balance moves it."
)
@with_cluster
async def pin(cluster: Cluster, shard: int, worker: str | None, remove: bool) -> None:
    """Keep SHARD on WORKER, and move it there now.

    \b
    threadcluster pin 7 demo-1
    threadcluster pin 7 --remove
    threadcluster pin 7 demo-1 -n chat --name demo      on Kubernetes

    The pin is kept in the cluster's database, and holds across restarts and releases. A pin of the same shard in
    spec.rebalance.pins wins over it; `threadcluster shards -o wide` shows every pin, and where it comes from. While WORKER is
    away or draining, another worker has the shard.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    if remove == (worker is not None):
        raise click.UsageError("give either WORKER or --remove")
    known = {entry.name for entry in (await cluster.workers.ownership()).workers}
    autoscaling = cluster.spec.autoscaling
    most = max(cluster.spec.replicas, autoscaling.max_replicas if autoscaling is not None else 0)
    wanted = {f"{cluster.name}-{number}" for number in range(most)}
    wrong = wrong_pin(shard, worker, shards=cluster.spec.shards, workers=known | wanted)
    if wrong is not None:
        raise click.ClickException(wrong)
    changed = await cluster.workers.pin(shard, worker)
    if remove:
        click.echo(f"shard {shard} is pinned no more" if changed else f"shard {shard} is not pinned")
    else:
        click.echo(f"shard {shard} is pinned to {worker}")
    in_spec = [each.worker for each in cluster.spec.rebalance.pins if each.shard == shard]
    if in_spec and in_spec != [worker]:
        click.echo(f"spec.rebalance.pins has it on {in_spec[0]}, which wins")
        return
    why = "spec.rebalance.mode is Paused" if cluster.spec.rebalance.mode == "Paused" else cluster.unplanned
    if worker is not None and why is not None:
        click.echo(f"for now it does not move: {why}")
