"""How a command reaches the cluster that is meant, and what it says when it cannot.

There are two ways in.  The *workers* answer what they read and write in the database; any live one will do, also when
no planner runs.  The *planner* holds the resource, and makes and carries out plans: locally the supervisor, on Kubernetes the
resource itself (`threadcluster_operator.cli.kubernetes`).  Only this module of the
commands knows where both of them are.
"""

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, overload

import aiohttp
import click

from threadcluster_operator.api import InvalidResource, ThreadClusterSpec, read_resources
from threadcluster_operator.cli.target import ClusterOptions, LocalTarget, flags_of
from threadcluster_operator.cli.target_options import Target, no_cluster, where, with_target
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.errors import NotRunning, UpFailed
from threadcluster_operator.planning.rebalance import Document, MovesRefused
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient, WorkerRefused
from threadcluster_operator.workers.protocol import WorkersClient

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
    options: ClusterOptions
    """The options that select just this cluster, whatever the defaults become."""
    where: str
    """Name and place, for people."""

    @property
    def flags(self) -> str:
        """The options for a command that is shown to the user."""
        return flags_of(self.options)


@asynccontextmanager
async def local_cluster(place: DataDir) -> AsyncIterator[Cluster]:
    """The cluster of a data directory.  Raises `NotRunning` when neither its supervisor nor any worker lives."""
    planned = place.is_locked()
    if not place.cluster_yaml.exists() or not (planned or place.worker_ports()):
        raise NotRunning(f"no cluster is running on {place.path}")
    secret = place.secret_file.read_text(encoding="utf-8")
    resource = read_resources(place.cluster_yaml).cluster
    unplanned = None if planned else "no planner runs; the supervisor is gone"
    async with aiohttp.ClientSession() as session:
        try:
            workers = WorkerApiClient(session, WorkerAddresses(place), secret)
        except ValueError as error:
            raise UpFailed(
                f"{place.secret_file} is damaged: {error}; `threadcluster local up` makes another"
            ) from error
        options = ClusterOptions(data_dir=place.path)
        yield Cluster(
            resource.name, resource.spec, workers, ControlClient(place), unplanned, options, where(place, resource.name)
        )


class WorkerAddresses(Sequence[str]):
    """The addresses of a data directory's workers, looked up at each use: a worker that restarts has another port."""

    def __init__(self, place: DataDir) -> None:
        self._place = place

    def _now(self) -> list[str]:
        return [f"https://127.0.0.1:{port}" for port in self._place.worker_ports().values()]

    def __len__(self) -> int:
        return len(self._now())

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        """One address, or several."""
        return self._now()[at]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())


@asynccontextmanager
async def kubernetes_cluster(options: ClusterOptions) -> AsyncIterator[Cluster]:
    """A ThreadCluster of a Kubernetes.  Raises `threadcluster_operator.cli.kubernetes.errors.ClusterUnreachable`."""
    from threadcluster_operator.cli.kubernetes.cluster import remote_cluster
    from threadcluster_operator.cli.kubernetes.target import place_of

    place = place_of(options, os.environ)
    async with remote_cluster(place, options.name) as found:
        unplanned = "spec.paused is true, so the operator changes nothing" if found.spec.paused else None
        yield Cluster(
            found.name,
            found.spec,
            found.workers,
            found.planner,
            unplanned,
            place.options(found.name),
            place.where(found.name),
        )


Body = Callable[[Cluster], Coroutine[Any, Any, None]]


def with_cluster(command: Callable[Concatenate[Cluster, P], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Give a command its cluster, and the options that say which; its failures become sentences and exit codes.

    The cluster is named on standard error first, but for a document that a program reads.
    """

    @functools.wraps(command)
    def run(target: Target, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def body(cluster: Cluster) -> None:
            if kwargs.get("output") != "json":
                click.echo(cluster.where, err=True)
            await command(cluster, *args, **kwargs)

        try:
            if isinstance(target, LocalTarget):
                _run_local(target.place, body)
            else:
                _run_on_kubernetes(target.options, body)
        except KeyboardInterrupt:
            if not kwargs.get("watch"):
                raise
            sys.exit(0)  # the end of --watch

    return with_target(run)


async def _within(cluster: AbstractAsyncContextManager[Cluster], body: Body) -> None:
    async with cluster as found:
        await body(found)


def _run_local(place: DataDir, body: Body) -> None:
    try:
        asyncio.run(_within(local_cluster(place), body))
    except NotRunning as error:
        no_cluster(str(error))
    except NoWorkerAvailable as error:
        raise click.ClickException(f"{error}; `threadcluster status` shows what runs") from error
    except WorkerRefused as error:
        raise click.ClickException(_refusal(error)) from error
    except (UpFailed, InvalidResource) as error:
        raise click.ClickException(str(error)) from error


def _run_on_kubernetes(options: ClusterOptions, body: Body) -> None:
    from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable

    try:
        asyncio.run(_within(kubernetes_cluster(options), body))
    except ClusterNotFound as error:
        no_cluster(str(error))
    except (ClusterUnreachable, MovesRefused) as error:
        raise click.ClickException(str(error)) from error
    except WorkerRefused as error:
        raise click.ClickException(_refusal(error)) from error


def _refusal(error: WorkerRefused) -> str:
    return str(error).removeprefix("name: ")
