"""`threadcluster plan` and `rebalance`: see what would move, and have it moved."""

import asyncio
import json
from typing import Final

import click

from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.obstacles import no_receiver, not_allowed
from threadcluster_operator.cli.table import counted, table
from threadcluster_operator.planning.rebalance import Document

_LOOK_EVERY_S: Final = 0.2

_no_wait = click.option("--no-wait", is_flag=True, help="Return when the moves are ordered, without waiting for them.")


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--execute", metavar="HASH", help="Carry out the plan with this hash, if it is still the one.")
@_no_wait
@with_cluster
async def plan(cluster: Cluster, output: str, execute: str | None, no_wait: bool) -> None:
    """Show what `threadcluster rebalance` would do now, and change nothing.

    \b
    threadcluster plan                   every move, and the hash of the whole plan
    threadcluster plan --execute HASH    make exactly those moves

    The hash tells one plan from another. When the cluster has changed so that something else would be done now, --execute
    is refused, and nothing is moved. In mode Auto the cluster balances itself beyond spec.rebalance.imbalanceThresholdPercent;
    a plan also has the moves below that.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    if execute is not None:
        await _carry_out(cluster, execute, wait=not no_wait)
        return
    found = await cluster.planner.plan()
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(_text(found, cluster.flags))
    if found["moves"] and (obstacle := not_allowed(cluster)):
        click.echo(f"no move is made now: {obstacle}")
    elif not found["moves"]:
        click.echo(await _nothing(cluster))


@click.command()
@click.option(
    "--plan", "plan_hash", metavar="HASH", help="Make just the moves of this plan, as `threadcluster plan` showed it."
)
@_no_wait
@with_cluster
async def rebalance(cluster: Cluster, plan_hash: str | None, no_wait: bool) -> None:
    """Spread the shards evenly now, also in mode Manual, and wait until that is done.

    Evenly means by number, or with spec.rebalance.strategy Load by commands a second. `threadcluster plan` shows beforehand
    what would move. It is refused in mode Paused.

    On Kubernetes the command orders the moves itself, a few at a time (spec.rebalance.maxConcurrentMoves), beside the
    operator: when it is ended early, moves that are not ordered yet are not made. --no-wait returns when all are.
    """
    await _carry_out(cluster, plan_hash, wait=not no_wait)


async def _carry_out(cluster: Cluster, plan_hash: str | None, *, wait: bool) -> None:
    begun = await cluster.planner.rebalance(plan_hash)
    if not begun["moves"]:
        click.echo(await _nothing(cluster))
        return
    click.echo(f"plan {begun['hash']}: {counted(begun['moves'], 'move')}")
    if not wait:
        await cluster.planner.hand_over()
        return
    shown = None
    while True:
        found = await cluster.planner.progress()
        if found["hash"] != begun["hash"]:
            raise click.ClickException(f"plan {found['hash']} was asked for meanwhile, and is carried out instead")
        if found["moved"] != shown:
            click.echo(f"{found['moved']} of {found['moves']} moved")
            shown = found["moved"]
        if not found["left"]:
            if found["givenUp"]:
                shards = ", ".join(str(shard) for shard in found["givenUp"])
                raise click.ClickException(f"not moved, because the cluster changed meanwhile: shards {shards}")
            return
        await asyncio.sleep(_LOOK_EVERY_S)


async def _nothing(cluster: Cluster) -> str:
    """Why a plan has no moves."""
    found = await cluster.workers.ownership()
    if obstacle := not_allowed(cluster) or no_receiver(cluster, found):
        return f"nothing to move: {obstacle}"
    if cluster.spec.replicas == 1:
        return f"nothing to move: {cluster.name}-0 is the only worker (spec.replicas is 1)"
    return "nothing to move: no worker has more than its share"


def _text(found: Document, flags: str) -> str:
    head = (
        f"plan {found['hash']}, made from plan version {found['planVersion']}: "
        f"mode {found['mode']}, by {found['strategy']}, the fullest worker is {found['imbalancePercent']:g} % above its share"
    )
    if not found["moves"]:
        return head
    rows = [("SHARD", "FROM", "TO", "REASON")]
    rows += [(move["shard"], move["source"], move["target"], move["reason"]) for move in found["moves"]]
    how = f"{counted(len(found['moves']), 'move')}; to make them: threadcluster plan{flags} --execute {found['hash']}"
    return f"{head}\n\n{table(rows)}\n\n{how}"
