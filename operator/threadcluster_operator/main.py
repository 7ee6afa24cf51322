"""The command lines: `threadcluster`, and the same commands as a plugin of kubectl."""

import sys
from typing import Final

import click

from threadcluster_operator.cli.groups import Program
from threadcluster_operator.cli.target import Platform

_ON_A_CLUSTER: Final = {
    "status": "status",
    "logs": "logs",
    "shards": "shards",
    "cordon": "cordon",
    "uncordon": "cordon",
    "drain": "cordon",
    "pin": "pin",
    "unpin": "pin",
    "plan": "plan",
    "rebalance": "plan",
    "history": "history",
    "fsck": "fsck",
    "thread": "thread",
    "console": "console",
}
"""Each command on a running cluster, by the module of `threadcluster_operator.cli` that has it under its name."""
_CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


@click.group(
    cls=Program,
    modules=_ON_A_CLUSTER | {"local": "local", "operator": "operator", "completion": "completion"},
    context_settings=_CONTEXT,
)
@click.version_option(package_name="threadcluster")
def main() -> None:
    """Durable, sharded chat threads: run a cluster here, and look after it.

    \b
    threadcluster local up            run the demo cluster (see `threadcluster local --help`)
    threadcluster status              what runs, and what is wrong
    threadcluster shards              who owns what
    threadcluster drain demo-1 --wait move everything off a worker
    threadcluster uncordon demo-1     let it have shards again
    threadcluster plan                what would be moved for balance, and `rebalance` does it
    threadcluster history             what was moved, why, and how long that took
    threadcluster thread ID           one thread: its shard and owner, its events, its state at any of them
    threadcluster console             the address of the page that shows all this live
    threadcluster operator run        look after the ThreadClusters of a Kubernetes cluster

    A command finds its cluster by what is there, and names it first: the one that runs here; where none is here, the one of
    the current context of the kubeconfig. --name says which cluster; --namespace and --context are for Kubernetes alone:

    \b
    threadcluster drain demo-1 --wait -n chat --name demo
    """  # noqa: D301 - click takes \b for a block to leave as it is


@click.group(cls=Program, modules=_ON_A_CLUSTER, context_settings=_CONTEXT)
@click.version_option(package_name="threadcluster")
@click.pass_context
def kubectl_main(ctx: click.Context) -> None:
    """Look after a ThreadCluster of this Kubernetes: the commands of `threadcluster`.

    \b
    kubectl threadcluster status -n chat
    kubectl threadcluster drain demo-1 --wait -n chat
    """  # noqa: D301 - click takes \b for a block to leave as it is
    ctx.obj = Platform.KUBERNETES


def kubectl_plugin() -> None:
    """`kubectl-threadcluster`, which kubectl runs as `kubectl threadcluster`."""
    kubectl_main(prog_name="kubectl threadcluster")


def kubectl_completion() -> None:
    """`kubectl_complete-threadcluster`, which kubectl asks for completions of the words that follow."""
    from threadcluster_operator.cli.completion import answer_to_kubectl

    click.echo(answer_to_kubectl(kubectl_main, sys.argv[1:]))


if __name__ == "__main__":
    main()
