"""How a command reaches the cluster that is meant, and what it says when it cannot.

There are two ways in.  The *workers* answer what they read and write in the database; any live one will do, also when
nobody plans.  The *planner* (locally the supervisor) holds the resource, and makes and carries out plans.  Where both of
them are to be found is known here and nowhere else in the commands.
"""

import asyncio
import functools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol

import aiohttp
import click

from threadcluster_operator.local.control import ControlClient, NotRunning
from threadcluster_operator.local.datadir import DataDir, choose
from threadcluster_operator.local.supervisor import UpFailed
from threadcluster_operator.model import Resources, read_resources
from threadcluster_operator.workers import Document, NobodyAnswers, WorkerRefused, Workers

NOT_RUNNING: Final = 3
"""Exit code when there is no cluster to ask, as of `threadcluster local status`."""

P = ParamSpec("P")


class Planner(Protocol):
    """Who holds the resource and plans.  Every call raises `NotRunning` when there is none, `UpFailed` for a no."""

    async def pin(self, shard: int, worker: str | None) -> list[str]:
        """Pin a shard to a worker, or with None to nobody; what changes."""
        ...

    async def plan(self) -> Document:
        """What `rebalance` would do now."""
        ...

    async def rebalance(self, plan: str | None) -> Document:
        """Balance now, or carry out just this plan."""
        ...

    async def progress(self) -> Document:
        """How far the last `rebalance` is."""
        ...


class Cluster(NamedTuple):
    """A cluster that is running."""

    resources: Resources
    """As last accepted."""
    workers: Workers
    planner: Planner
    planned: bool
    """Whether a planner lives, though it may not answer."""


@asynccontextmanager
async def local_cluster(place: DataDir) -> AsyncIterator[Cluster]:
    """The cluster of a data directory.  Raises `NotRunning` when neither its supervisor nor any worker lives."""
    addresses, planned = _addresses(place), place.is_locked()
    if not place.cluster_yaml.exists() or not (addresses or planned):
        raise NotRunning(f"no cluster is running on {place.path}")
    secret = place.secret_file.read_text().strip()
    async with aiohttp.ClientSession() as session:
        workers = Workers(session, addresses, secret)
        yield Cluster(read_resources(place.cluster_yaml), workers, ControlClient(place), planned)


def _addresses(place: DataDir) -> list[str]:
    """Where the worker processes said that they listen, those that are gone left out."""
    found = []
    for path in sorted(place.run.glob("*.json")):
        try:
            bound = json.loads(path.read_text())
            os.kill(bound["pid"], 0)
        except (OSError, ValueError):
            continue
        found.append(f"http://127.0.0.1:{bound['managementPort']}")
    return found


def reaching(command: Callable[Concatenate[Cluster, P], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Give a command its cluster, and the options that say which; its failures become sentences and exit codes."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="The data directory of a local cluster [default: the only one in ./.threadcluster, else demo].",
    )
    @functools.wraps(command)
    def run(data_dir: Path | None, *args: P.args, **kwargs: P.kwargs) -> None:
        place = DataDir(choose(data_dir, None))

        async def go() -> None:
            async with local_cluster(place) as cluster:
                await command(cluster, *args, **kwargs)

        try:
            asyncio.run(go())
        except NotRunning as error:
            click.echo(str(error), err=True)
            sys.exit(NOT_RUNNING)
        except NobodyAnswers as error:
            raise click.ClickException(f"{error}; `threadcluster local status` shows what runs") from error
        except WorkerRefused as error:
            raise click.ClickException(str(error).removeprefix("name: ")) from error
        except UpFailed as error:
            raise click.ClickException(str(error)) from error

    return run
