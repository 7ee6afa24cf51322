"""`threadcluster cordon`, `uncordon` and `drain`: which workers get shards, and which keep them.

They are recorded through any live worker, so that they work also while no planner runs.
"""

import asyncio
import time
from typing import Final

import click

from shard_worker.contract_internal import CordonVerb
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.completion import workers_here
from threadcluster_operator.cli.obstacles import no_receiver, not_allowed
from threadcluster_operator.cli.table import counted

_LOOK_EVERY_S: Final = 0.2


@click.command()
@click.argument("worker", shell_complete=workers_here)
@with_cluster
async def cordon(cluster: Cluster, worker: str) -> None:
    """Give WORKER no more shards; it keeps those it has.

    It holds for the worker's name, also after a restart, until `threadcluster uncordon WORKER`. The state of every worker
    is in `threadcluster status`.
    """
    await cluster.workers.cordon(worker, CordonVerb.CORDON)
    click.echo(f"{worker} is cordoned: it keeps its shards, and gets no more")
    if obstacle := no_receiver(cluster, await cluster.workers.ownership(), worker):
        click.echo(f"no shard can move now: {obstacle}")


@click.command()
@click.argument("worker", shell_complete=workers_here)
@with_cluster
async def uncordon(cluster: Cluster, worker: str) -> None:
    """Let WORKER have shards again, after a `cordon` or a `drain`.

    In mode Auto it gets its share at once; in mode Manual with the next `threadcluster rebalance`.
    """
    await cluster.workers.cordon(worker, CordonVerb.UNCORDON)
    click.echo(f"{worker} may have shards again")
    if obstacle := not_allowed(cluster):
        click.echo(f"for now it gets none: {obstacle}")
    elif cluster.spec.rebalance.mode == "Manual":
        click.echo("spec.rebalance.mode is Manual: `threadcluster rebalance` gives it its share")


@click.command()
@click.argument("worker", shell_complete=workers_here)
@click.option(
    "--wait", is_flag=True, help="Return when WORKER owns nothing, and say meanwhile how many shards are left."
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    help="How long --wait waits.",
)
@with_cluster
async def drain(cluster: Cluster, worker: str, wait: bool, timeout_s: float) -> None:
    """Move all shards off WORKER, and give it no more.

    Its shards go to the other workers, a few at a time (spec.rebalance.maxConcurrentMoves), and no client notices. The
    worker goes on running and forwards requests; it stays drained until `threadcluster uncordon WORKER`.

    Exit codes: 0 recorded, or with --wait: it owns nothing; 1 it cannot be emptied, or not within --timeout.
    """
    await cluster.workers.cordon(worker, CordonVerb.DRAIN)
    click.echo(f"{worker} is draining: its shards go to the other workers, and it gets no more")
    if wait:
        await _until_empty(cluster, worker, timeout_s)
    elif obstacle := not_allowed(cluster) or no_receiver(cluster, await cluster.workers.ownership(), worker):
        click.echo(f"for now nothing moves: {obstacle}")


async def _until_empty(cluster: Cluster, worker: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    shown = -1
    while True:
        found = await cluster.workers.ownership()
        left = sum(1 for shard in found.shards if shard.owner == worker)
        if left == 0:
            click.echo(f"{worker} owns nothing")
            return
        if left != shown:
            click.echo(f"{worker} still owns {counted(left, 'shard')}")
            shown = left
        if obstacle := not_allowed(cluster) or no_receiver(cluster, found):
            raise click.ClickException(f"{worker} still owns {counted(left, 'shard')}: {obstacle}")
        if time.monotonic() >= deadline:
            raise click.ClickException(f"{worker} still owns {counted(left, 'shard')} after {timeout_s:g} s")
        await asyncio.sleep(_LOOK_EVERY_S)
