"""`threadcluster console`: the address of the page that shows a cluster live."""

from pathlib import Path

import click

from threadcluster_operator.local.data_dir import DataDir, resolve_data_dir


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data directory of a local cluster [default: the only one in ./.threadcluster, else demo].",
)
def console(data_dir: Path | None) -> None:
    """Print the address of the console of a running local cluster; `threadcluster local up` prints it too.

    The address has the token of this run: with it a browser on this machine can read every text, and kill workers. It is good
    until the cluster is stopped.
    """
    place = DataDir(resolve_data_dir(data_dir, None))
    control = place.control()
    if control is None or not control.get("console"):
        raise click.ClickException(f"no cluster with a console is running on {place.path}")
    click.echo(control["console"])
