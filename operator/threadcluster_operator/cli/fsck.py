"""`threadcluster fsck`: proves the journal of a cluster, here or on Kubernetes."""

import subprocess
import sys

import click

from threadcluster_operator.cli.target import LocalTarget
from threadcluster_operator.cli.target_options import Target, where, with_target


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_target
def fsck(target: Target, output: str) -> None:
    """Prove the journal from itself, also while workers write to it; changes nothing.

    Locally with the login that owns the schema. On Kubernetes `shard-worker fsck` runs in a worker's pod, by kubectl, with
    the context and namespace of this command: it needs the right to create pods/exec.

    Exit codes: 0 clean, 1 something was found, 3 it could not be checked.
    """
    words = ["fsck", "--output", output]
    if isinstance(target, LocalTarget):
        place = target.place
        if not place.migration_dsn_file.exists():
            click.echo(f"no database is known in {place.path}; `threadcluster local up` starts a cluster", err=True)
            sys.exit(3)
        click.echo(where(place), err=True)
        command = [sys.executable, "-m", "shard_worker.main", *words, "--dsn-file", str(place.migration_dsn_file)]
        sys.exit(subprocess.run(command, check=False).returncode)
    from threadcluster_operator.cli.kubernetes.kubectl import run_in_a_worker

    sys.exit(run_in_a_worker(target.options, ["shard-worker", *words]))
