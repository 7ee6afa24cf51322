"""The `threadcluster` program: its command line."""

import click

from threadcluster_operator.local.cli import local
from threadcluster_operator.operator_cli import operator
from threadcluster_operator.verbs.cordon import cordon, drain, uncordon
from threadcluster_operator.verbs.history import history
from threadcluster_operator.verbs.pin import pin
from threadcluster_operator.verbs.plan import plan, rebalance
from threadcluster_operator.verbs.shards import shards


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="threadcluster")
def main() -> None:
    """Durable, sharded chat threads: run a cluster here, and look after it.

    \b
    threadcluster local up            run the demo cluster (see `threadcluster local --help`)
    threadcluster shards              who owns what
    threadcluster drain demo-1 --wait move everything off a worker
    threadcluster uncordon demo-1     let it have shards again
    threadcluster plan                what would be moved for balance, and `rebalance` does it
    threadcluster history             what was moved, why, and how long that took
    threadcluster operator run        look after the ThreadClusters of a Kubernetes cluster

    These commands are for a cluster here, and with --namespace, --name or --context for one on Kubernetes:

    \b
    threadcluster drain demo-1 --wait -n chat --name demo
    """  # noqa: D301 - click takes \b for a block to leave as it is


for command in (local, operator, shards, cordon, uncordon, drain, pin, plan, rebalance, history):
    main.add_command(command)

if __name__ == "__main__":
    main()
