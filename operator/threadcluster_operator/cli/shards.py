"""`threadcluster shards`: the owner of each shard."""

import json
from typing import Final

import click
import msgspec

from shard_worker.contract_internal import OwnershipResponse, ShardEntry
from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.api.pins import pin_of
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.sources import watched
from threadcluster_operator.cli.table import table
from threadcluster_operator.workers.client import NoWorkerAvailable

_FIELDS: Final = ("id", "owner", "incarnation", "epoch", "state", "target", "load", "reason", "since", "pin")
"""Of the output as JSON, in order."""


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table", show_default=True)
@click.option("-w", "--watch", is_flag=True, help="Show them again and again, until Ctrl-C.")
@with_cluster
async def shards(cluster: Cluster, output: str, watch: bool) -> None:
    """Show every shard: its owner, whether it is being moved, and where the plan wants it.

    A shard is `serving`, `moving` (its target is another worker) or `unowned`. The epoch counts its changes of owner. With
    -o wide also the load (commands a second, milliseconds an append), since when, why it is where it is, and its pin: the
    worker, and whether that is from the resource (spec) or by command.
    """

    async def render() -> str:
        try:
            return _text(await cluster.workers.ownership(), cluster.spec, output)
        except NoWorkerAvailable as error:
            if not watch:
                raise
            return str(error)  # as while the last worker restarts

    await watched(render, watch=watch)


def _text(found: OwnershipResponse, spec: ThreadClusterSpec, output: str) -> str:
    if output == "json":
        documents = [msgspec.to_builtins(shard) | {"pin": _pin(shard, spec)} for shard in found.shards]
        rows = [{field: document[field] for field in _FIELDS} for document in documents]
        return json.dumps({"planVersion": found.plan_version, "shards": rows}, indent=2)
    wide = output == "wide"
    heads = ["SHARD", "OWNER", "STATE", "TARGET", "EPOCH"]
    heads += ["COMMANDS/S", "APPEND MS", "INCARNATION", "SINCE", "REASON", "PIN"] if wide else []
    return table([heads, *(_row(shard, spec, wide=wide) for shard in found.shards)])


def _pin(shard: ShardEntry, spec: ThreadClusterSpec) -> dict[str, str] | None:
    found = pin_of(shard, spec)
    return None if found is None else {"worker": found[0], "source": found[1]}


def _row(shard: ShardEntry, spec: ThreadClusterSpec, *, wide: bool) -> list[object]:
    cells: list[object] = [shard.id, shard.owner, shard.state, shard.target, shard.epoch]
    if wide:
        cells += [
            shard.load.commands_per_second,
            shard.load.append_milliseconds,
            shard.incarnation,
            shard.since,
            shard.reason,
            " ".join(pin_of(shard, spec) or ()) or None,
        ]
    return cells
