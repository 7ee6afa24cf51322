"""The `threadcluster` program: its command line."""

import click

from threadcluster_operator.local.cli import local


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="threadcluster")
def main() -> None:
    """Durable, sharded chat threads: run a cluster here, and look after it."""


main.add_command(local)

if __name__ == "__main__":
    main()
