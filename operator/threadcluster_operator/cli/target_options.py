"""The options that select a cluster, and how a command names the cluster that was found.

Also for commands on a cluster that does not run; a module that is slow to import is none of this one's.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Final, NoReturn, ParamSpec

import click

from threadcluster_operator.cli.target import (
    ClusterOptions,
    KubernetesTarget,
    LocalTarget,
    NoTarget,
    Platform,
    local_clusters,
    resolve_target,
)
from threadcluster_operator.local.data_dir import DataDir

NOT_RUNNING: Final = 3
"""Exit code when there is no cluster to ask."""

P = ParamSpec("P")
_OPTIONS: Final = (
    click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="A local cluster, by its data directory [default: the running one in ./.threadcluster].",
    ),
    click.option(
        "--name",
        metavar="NAME",
        shell_complete=lambda ctx, param, incomplete: [
            name for name in local_clusters() if name.startswith(incomplete)
        ],
        help="The cluster, here or on Kubernetes [default: the only one].",
    ),
    click.option("--context", metavar="NAME", help="On Kubernetes: the context of the kubeconfig [default: current]."),
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        help="On Kubernetes: the ThreadCluster's namespace [default: the context's].",
    ),
    click.option(
        "--kubeconfig",
        metavar="FILE",
        help="On Kubernetes: how it is reached [default: $KUBECONFIG, else ~/.kube/config].",
    ),
)

Target = LocalTarget | KubernetesTarget


def with_target(command: Callable[Concatenate[Target, P], None]) -> Callable[..., None]:
    """Give a command the cluster that is meant, which need not run, and the options that say which."""

    @functools.wraps(command)
    def run(
        data_dir: Path | None,
        name: str | None,
        context: str | None,
        namespace: str | None,
        kubeconfig: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        options = ClusterOptions(data_dir, name, context, namespace, kubeconfig)
        platform = click.get_current_context().find_object(Platform)
        try:
            target = resolve_target(options, platform, os.environ)
        except NoTarget as error:
            no_cluster(str(error))
        command(target, *args, **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def where(place: DataDir, name: str | None = None) -> str:
    """The place of a local cluster, for people; with the cluster's name where that is known already."""
    return ("" if name is None else f"cluster {name}, ") + f"local, {place.path}"


def no_cluster(message: str) -> NoReturn:
    """End with the exit code that says that there is no cluster to ask."""
    click.echo(message, err=True)
    sys.exit(NOT_RUNNING)
