"""Commands that kubectl carries out: it gets the context, the namespace and the kubeconfig that were found once, here."""

import asyncio
import os
import shutil
import subprocess
import sys

import click

from threadcluster_operator.cli.hints import did_you_mean
from threadcluster_operator.cli.kubernetes.cluster import connection
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
from threadcluster_operator.cli.kubernetes.target import Place, find, place_of
from threadcluster_operator.cli.target import ClusterOptions
from threadcluster_operator.cli.target_options import NOT_RUNNING, no_cluster
from threadcluster_operator.controller.snapshot import Pod, pod_of
from threadcluster_operator.kube.client import POD
from threadcluster_operator.render import selector_of

_CONTAINER = "worker"
_ENDED_THERE = b"command terminated with exit code"
"""The last line of kubectl when the command in the pod, and not kubectl, has failed."""


def logs_of(
    options: ClusterOptions, worker: str | None, lines: str, *, follow: bool
) -> tuple[list[str], dict[str, str]]:
    """The command that shows the logs of a worker or of all, and its environment."""
    place, name, pods = _found(options)
    names = [pod.name for pod in pods]
    if worker is not None and worker not in names:
        there = ", ".join(names) or "none"
        raise click.ClickException(f"no pod {worker!r} of {name}; there are {there}{did_you_mean(worker, names)}")
    selected = [worker] if worker is not None else ["--selector", _selector(name), "--prefix", "--max-log-requests=256"]
    words = ["logs", "--container", _CONTAINER, "--tail", lines, *(["--follow"] if follow else []), *selected]
    return _kubectl(place, words), _environment(place)


def run_in_a_worker(options: ClusterOptions, words: list[str]) -> int:
    """Run a program in a pod that is ready: its exit code, or that of a cluster that cannot be asked when it did not run."""
    place, name, pods = _found(options)
    ready = [pod.name for pod in pods if pod.ready]
    if not ready:
        click.echo(f"none of the {len(pods)} pods of {name} is ready; `threadcluster status` shows them", err=True)
        return NOT_RUNNING
    command = _kubectl(place, ["exec", ready[0], "--container", _CONTAINER, "--", *words])
    done = subprocess.Popen(command, stderr=subprocess.PIPE, env=_environment(place))
    assert done.stderr is not None  # a pipe
    ran = True
    for line in done.stderr:
        ran = line.startswith(_ENDED_THERE)
        sys.stderr.write("" if ran else line.decode(errors="replace"))
    code = done.wait()
    return code if ran or code == 0 else NOT_RUNNING


def _found(options: ClusterOptions) -> tuple[Place, str, list[Pod]]:
    """The place, the ThreadCluster's name, and its workers' pods; the target is named on standard error."""

    async def look() -> tuple[Place, str, list[Pod]]:
        place = place_of(options, os.environ)
        async with connection(place) as reached:
            name = str((await find(reached.kube, place.namespace, options.name))["metadata"]["name"])
            listed = (await reached.kube.list(POD, place.namespace, _selector(name))).items
            return place, name, sorted(map(pod_of, listed), key=lambda pod: pod.ordinal)

    try:
        place, name, pods = asyncio.run(look())
    except ClusterNotFound as error:
        no_cluster(str(error))
    except ClusterUnreachable as error:
        raise click.ClickException(str(error)) from error
    click.echo(place.where(name), err=True)
    return place, name, pods


def _selector(name: str) -> str:
    return ",".join(f"{key}={value}" for key, value in selector_of(name, "worker").items())


def _kubectl(place: Place, words: list[str]) -> list[str]:
    if shutil.which("kubectl") is None:
        raise click.ClickException("this command needs kubectl, which is not on the PATH")
    context = [] if place.access.context is None else ["--context", place.access.context]
    return ["kubectl", *context, "--namespace", place.namespace, *words]


def _environment(place: Place) -> dict[str, str]:
    """As a variable: an option takes one file, and the variable may name several."""
    given = place.access.kubeconfig
    return dict(os.environ) | ({} if given is None else {"KUBECONFIG": given})
