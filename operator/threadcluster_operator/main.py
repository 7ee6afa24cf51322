"""The `threadcluster` program: its command line."""

from importlib import import_module
from typing import Final

import click

_COMMANDS: Final = {
    "local": "cli.local",
    "operator": "cli.operator",
    "shards": "cli.shards",
    "cordon": "cli.cordon",
    "uncordon": "cli.cordon",
    "drain": "cli.cordon",
    "pin": "cli.pin",
    "plan": "cli.plan",
    "rebalance": "cli.plan",
    "history": "cli.history",
    "thread": "cli.thread",
    "console": "cli.console",
}
"""Each command, by the module that has it under its name: only the one that is given is imported."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"threadcluster_operator.{_COMMANDS[cmd_name]}"), cmd_name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
    threadcluster thread ID           one thread: its shard and owner, its events, its state at any of them
    threadcluster console             the address of the page that shows all this live
    threadcluster operator run        look after the ThreadClusters of a Kubernetes cluster

    These commands are for a cluster here, and with --namespace, --name or --context for one on Kubernetes:

    \b
    threadcluster drain demo-1 --wait -n chat --name demo
    """  # noqa: D301 - click takes \b for a block to leave as it is


if __name__ == "__main__":
    main()
