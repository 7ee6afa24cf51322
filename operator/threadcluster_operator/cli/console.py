"""`threadcluster console`: the address of the page that shows a cluster live."""

import click

from threadcluster_operator.cli.target import LocalTarget
from threadcluster_operator.cli.target_options import Target, no_cluster, with_target


@click.command()
@with_target
def console(target: Target) -> None:
    """Print the address of the console of a running local cluster; `threadcluster local up` prints it too.

    The address has the token of this run: with it a browser on this machine can read every text, and kill workers. It is good
    until the cluster is stopped.
    """
    if not isinstance(target, LocalTarget):
        raise click.ClickException("the console is that of a cluster here; there is none for Kubernetes yet")
    control = target.place.control()
    if control is None or not control.get("console"):
        no_cluster(f"no cluster with a console is running on {target.place.path}")
    click.echo(control["console"])
