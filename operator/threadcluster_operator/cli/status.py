"""`threadcluster status`: the state of a cluster, here or on Kubernetes, as far as its sources answer."""

import asyncio
import json
import sys

import click

from threadcluster_operator.cli.local_status import local_status, text_of
from threadcluster_operator.cli.sources import watched
from threadcluster_operator.cli.target import ClusterOptions, LocalTarget
from threadcluster_operator.cli.target_options import NOT_RUNNING, Target, no_cluster, where, with_target
from threadcluster_operator.local.data_dir import DataDir


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@with_target
def status(target: Target, output: str, watch: bool) -> None:
    """Show the cluster: whether it is ready, and its workers with the shards of each.

    Each source (supervisor, workers and disk; on Kubernetes the ThreadCluster, its pods and its workers) is asked by itself:
    one that does not answer in time, or that you may not ask, is a row under NOT KNOWN.

    A local worker is ready, cordoned (it gets no more shards), draining (it keeps none), recovering (it does not serve all
    its shards yet), starting, silent (it does not answer), displaced (its database belongs to another cluster now), dead
    (it is restarted) or stopping.

    Exit code 3 when there is no cluster, or locally no supervisor that answers.
    """
    if isinstance(target, LocalTarget):
        shown = _local(target.place, output, watch)
    else:
        shown = _remote(target.options, output, watch)
    try:
        code = asyncio.run(shown)
    except KeyboardInterrupt:
        code = 0 if watch else 1
    sys.exit(code)


async def _local(place: DataDir, output: str, watch: bool) -> int:
    lives = False

    async def render() -> str:
        nonlocal lives
        document, lives = await local_status(place)
        if output == "json":
            return json.dumps(document, indent=2)
        if not lives and not place.is_locked():
            return f"no cluster is running on {place.path}"  # any more
        return text_of(document)

    if output != "json":
        if not place.is_locked() and not watch:
            no_cluster(f"no cluster is running on {place.path}")
        click.echo(where(place), err=True)
    await watched(render, watch=watch)
    if not lives and output == "json":
        click.echo(f"no supervisor answers on {place.path}", err=True)
    return 0 if lives else NOT_RUNNING


async def _remote(options: ClusterOptions, output: str, watch: bool) -> int:
    from threadcluster_operator.cli.kubernetes.status import watch_remote

    return await watch_remote(options, output, watch=watch)
