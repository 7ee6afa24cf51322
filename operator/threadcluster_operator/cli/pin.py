"""`threadcluster pin`: shards that belong on one worker, whatever balance says."""

import click

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

    A pin is spec.rebalance.pins in the resource of the running cluster, and is kept with it across restarts. A later
    `threadcluster local up -f FILE`, or `kubectl apply -f FILE` of a file with pins, replaces them by the file's: write those
    that shall stay into the file. While WORKER is away or draining, another worker has the shard.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    if remove == (worker is not None):
        raise click.UsageError("give either WORKER or --remove")
    changes = await cluster.planner.pin(shard, worker)
    click.echo(
        "\n".join(changes) or (f"shard {shard} is not pinned" if remove else f"shard {shard} is pinned to {worker}")
    )
    why = "spec.rebalance.mode is Paused" if cluster.spec.rebalance.mode == "Paused" else cluster.unplanned
    if worker is not None and why is not None:
        click.echo(f"for now it does not move: {why}")
