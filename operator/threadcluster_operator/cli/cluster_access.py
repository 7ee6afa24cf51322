"""How a command reaches the cluster that is meant, and what it says when it cannot.

There are two ways in.  The *workers* answer what they read and write in the database; any live one will do, also when
no planner runs.  The *planner* holds the resource, and makes and carries out plans: locally the supervisor, on Kubernetes the
resource itself (`threadcluster_operator.cli.kubernetes`).  Only this module of the
commands knows where both of them are.
"""

import asyncio
import functools
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol

import aiohttp
import click

from threadcluster_operator.api import ThreadClusterSpec, read_resources
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir, resolve_data_dir
from threadcluster_operator.local.errors import NotRunning, UpFailed
from threadcluster_operator.planning.rebalance import Document, MovesRefused
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient, WorkerRefused
from threadcluster_operator.workers.protocol import WorkersClient

if TYPE_CHECKING:
    from threadcluster_operator.cli.kubernetes.target import ClusterSelector

NOT_RUNNING: Final = 3
"""Exit code when there is no cluster to ask, as of `threadcluster local status`."""

P = ParamSpec("P")


class Planner(Protocol):
    """The program that holds the resource and plans.  A call without such a program, or a refusal, raises an error that
    `with_cluster` explains.
    """

    async def plan(self) -> Document:
        """The plan that `rebalance` would carry out now."""
        ...

    async def rebalance(self, plan: str | None) -> Document:
        """Balance now, or carry out just this plan."""
        ...

    async def progress(self) -> Document:
        """How far the last `rebalance` is; it may need this call to go on."""
        ...

    async def hand_over(self) -> None:
        """Return when the last `rebalance` goes on without this command."""
        ...


class Cluster(NamedTuple):
    """A cluster that is there."""

    name: str
    spec: ThreadClusterSpec
    """As last accepted."""
    workers: WorkersClient
    planner: Planner
    unplanned: str | None
    """Why no planner runs; None when one does."""
    flags: str
    """The options that selected this cluster, for a command that is shown to the user."""


@asynccontextmanager
async def local_cluster(place: DataDir) -> AsyncIterator[Cluster]:
    """The cluster of a data directory.  Raises `NotRunning` when neither its supervisor nor any worker lives."""
    addresses, planned = _addresses(place), place.is_locked()
    if not place.cluster_yaml.exists() or not (addresses or planned):
        raise NotRunning(f"no cluster is running on {place.path}")
    secret = place.secret_file.read_text()
    resource = read_resources(place.cluster_yaml).cluster
    unplanned = None if planned else "no planner runs; the supervisor is gone"
    async with aiohttp.ClientSession() as session:
        workers = WorkerApiClient(session, addresses, secret)
        yield Cluster(resource.name, resource.spec, workers, ControlClient(place), unplanned, "")


@asynccontextmanager
async def kubernetes_cluster(where: "ClusterSelector") -> AsyncIterator[Cluster]:
    """A ThreadCluster of a Kubernetes.  Raises `threadcluster_operator.cli.kubernetes.errors.ClusterUnreachable`."""
    from threadcluster_operator.cli.kubernetes.cluster import remote_cluster

    flags = [
        *_flag("kubeconfig", where.kubeconfig),
        *_flag("context", where.context),
        *_flag("namespace", where.namespace),
        *_flag("name", where.name),
    ]
    async with remote_cluster(where) as found:
        unplanned = "spec.paused is true, so the operator changes nothing" if found.spec.paused else None
        yield Cluster(found.name, found.spec, found.workers, found.planner, unplanned, "".join(flags))


def _flag(name: str, value: str | None) -> Iterable[str]:
    return () if value is None else (f" --{name} {shlex.quote(value)}",)


def _addresses(place: DataDir) -> list[str]:
    """The addresses of the worker processes, as their ready files have them, without the processes that are gone."""
    found = []
    for path in sorted(place.run.glob("*.json")):
        try:
            bound = json.loads(path.read_text())
            os.kill(bound["pid"], 0)
        except (OSError, ValueError):
            continue
        found.append(f"https://127.0.0.1:{bound['managementPort']}")
    return found


_OPTIONS: Final = (
    click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="The data directory of a local cluster [default: the only one in ./.threadcluster, else demo].",
    ),
    click.option("--context", metavar="NAME", help="On Kubernetes: the context of the kubeconfig [default: current]."),
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        help="On Kubernetes: the ThreadCluster's namespace [default: the context's].",
    ),
    click.option(
        "--name", metavar="NAME", help="On Kubernetes: the ThreadCluster [default: the only one of the namespace]."
    ),
    click.option(
        "--kubeconfig",
        metavar="FILE",
        help="On Kubernetes: how it is reached [default: $KUBECONFIG, else ~/.kube/config].",
    ),
)


def with_cluster(command: Callable[Concatenate[Cluster, P], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Give a command its cluster, and the options that say which; its failures become sentences and exit codes.

    Any of the options that are about Kubernetes means a cluster there; without them it is a local one.
    """

    @functools.wraps(command)
    def run(
        data_dir: Path | None,
        context: str | None,
        namespace: str | None,
        name: str | None,
        kubeconfig: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        if (kubeconfig, context, namespace, name) == (None, None, None, None):
            hint = "; for one on Kubernetes give --namespace, --name or --context" if data_dir is None else ""
            _run_local(
                DataDir(resolve_data_dir(data_dir, None)), lambda cluster: command(cluster, *args, **kwargs), hint
            )
            return
        if data_dir is not None:
            raise click.UsageError(
                "--data-dir is for a local cluster; the other options that were given, for Kubernetes"
            )
        _run_on_kubernetes((kubeconfig, context, namespace, name), lambda cluster: command(cluster, *args, **kwargs))

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


Body = Callable[[Cluster], Coroutine[Any, Any, None]]


async def _within(cluster: AbstractAsyncContextManager[Cluster], body: Body) -> None:
    async with cluster as found:
        await body(found)


def _run_local(place: DataDir, body: Body, hint: str) -> None:
    try:
        asyncio.run(_within(local_cluster(place), body))
    except NotRunning as error:
        _no_cluster(f"{error}{hint}")
    except NoWorkerAvailable as error:
        raise click.ClickException(f"{error}; `threadcluster local status` shows what runs") from error
    except WorkerRefused as error:
        raise click.ClickException(_refusal(error)) from error
    except UpFailed as error:
        raise click.ClickException(str(error)) from error


def _run_on_kubernetes(given: tuple[str | None, str | None, str | None, str | None], body: Body) -> None:
    try:
        from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
        from threadcluster_operator.cli.kubernetes.target import ClusterSelector
    except ImportError as error:
        raise click.ClickException(f"for Kubernetes, install threadcluster[operator]: {error}") from error
    try:
        asyncio.run(_within(kubernetes_cluster(ClusterSelector(*given)), body))
    except ClusterNotFound as error:
        _no_cluster(str(error))
    except (ClusterUnreachable, MovesRefused) as error:
        raise click.ClickException(str(error)) from error
    except WorkerRefused as error:
        raise click.ClickException(_refusal(error)) from error


def _no_cluster(message: str) -> None:
    click.echo(message, err=True)
    sys.exit(NOT_RUNNING)


def _refusal(error: WorkerRefused) -> str:
    return str(error).removeprefix("name: ")
