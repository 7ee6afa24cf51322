"""`threadcluster console`: the page that shows a cluster live, here and on Kubernetes."""

import click

from threadcluster_operator.cli.target import LocalTarget
from threadcluster_operator.cli.target_options import Target, no_cluster, with_target


@click.command()
@with_target
def console(target: Target) -> None:
    """Show a cluster live in a browser: who owns what, what moves, one thread down to its events, and a chat.

    Of a local cluster, prints the address of the page that its supervisor serves; `threadcluster local up` prints it too.
    For a cluster on Kubernetes, serves the page on loopback until Ctrl-C, and prints its address: the pods are reached as
    by `kubectl port-forward`, with your own rights.

    The address has the token of this run: with it a browser on this machine can read every text, and move shards. It is
    good until the cluster, or this command, is stopped.
    """
    if not isinstance(target, LocalTarget):
        from threadcluster_operator.cli.kubernetes.console_backend import serve

        serve(target.options)
        return
    control = target.place.control()
    if control is None or not control.get("console"):
        no_cluster(f"no cluster with a console is running on {target.place.path}")
    click.echo(control["console"])
