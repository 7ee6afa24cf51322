"""`threadcluster pin` and `unpin`: shards that belong on one worker, whatever balance says."""

import click

from threadcluster_operator.api.pins import wrong_pin
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.completion import workers_here
from threadcluster_operator.cli.obstacles import not_allowed, not_receiving


@click.command()
@click.argument("shard", type=click.IntRange(0))
@click.argument("worker", shell_complete=workers_here)
@with_cluster
async def pin(cluster: Cluster, shard: int, worker: str) -> None:
    """Keep SHARD on WORKER, and move it there now.

    \b
    threadcluster pin 7 demo-1
    threadcluster pin 7 demo-1 -n chat --name demo      on Kubernetes

    The pin is kept in the cluster's database, and holds across restarts and releases, until `threadcluster unpin SHARD`. A
    pin of the same shard in spec.rebalance.pins wins over it; `threadcluster shards -o wide` shows every pin, and where it
    comes from. While WORKER is away or draining, another worker has the shard.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    found = await cluster.workers.ownership()
    autoscaling = cluster.spec.autoscaling
    most = max(cluster.spec.replicas, autoscaling.max_replicas if autoscaling is not None else 0)
    wanted = {f"{cluster.name}-{number}" for number in range(most)}
    known = {entry.name for entry in found.workers}
    wrong = wrong_pin(shard, worker, shards=cluster.spec.shards, workers=known | wanted)
    if wrong is not None:
        raise click.ClickException(wrong)
    await cluster.workers.pin(shard, worker)
    click.echo(f"shard {shard} is pinned to {worker}")
    if not _overruled(cluster, shard, worker) and found.shards[shard].owner != worker:
        obstacle = not_allowed(cluster) or not_receiving(cluster, found, worker)
        if obstacle is not None:
            click.echo(f"for now it does not move: {obstacle}")


@click.command()
@click.argument("shard", type=click.IntRange(0))
@with_cluster
async def unpin(cluster: Cluster, shard: int) -> None:
    """Remove the pin of SHARD.

    The shard stays where it is until balance moves it. A pin in spec.rebalance.pins is removed there.
    """
    wrong = wrong_pin(shard, None, shards=cluster.spec.shards, workers=set())
    if wrong is not None:
        raise click.ClickException(wrong)
    changed = await cluster.workers.pin(shard, None)
    click.echo(f"shard {shard} is pinned no more" if changed else f"shard {shard} is not pinned by command")
    _overruled(cluster, shard, None)


def _overruled(cluster: Cluster, shard: int, worker: str | None) -> bool:
    """Whether a pin of the resource wins over that of the command; says so."""
    in_spec = [each.worker for each in cluster.spec.rebalance.pins if each.shard == shard]
    if not in_spec or in_spec == [worker]:
        return False
    click.echo(f"spec.rebalance.pins has it on {in_spec[0]}, which wins")
    return True
