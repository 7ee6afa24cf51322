"""The status of a ThreadCluster: what the operator wrote, its pods, and what its workers say, each asked by itself."""

import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

import aiohttp
import click

from shard_worker.contract_internal import DatabaseState, OwnershipResponse
from threadcluster_operator.cli.kubernetes.cluster import Connection, connection
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable, sentence
from threadcluster_operator.cli.kubernetes.target import Place, find, place_of
from threadcluster_operator.cli.sources import Document, Source, SourceFailed, collect, failure_rows, watched
from threadcluster_operator.cli.table import table
from threadcluster_operator.cli.target import ClusterOptions
from threadcluster_operator.cli.target_options import NOT_RUNNING
from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import POD, KubeError
from threadcluster_operator.local.database_report import database_report
from threadcluster_operator.render import selector_of
from threadcluster_operator.workers.client import WorkerRefused

_API_S: Final = 6.0
_OBJECT_S: Final = 5.0
_WORKERS_S: Final = 10.0
"""Maximum time in which the workers are reached: pods, Secret and port-forward are asked for first."""


async def watch_remote(options: ClusterOptions, output: str, *, watch: bool) -> int:
    """Print the status of the ThreadCluster that is meant; the exit code.  Raises `click.ClickException`."""
    try:
        place = place_of(options, os.environ)
    except ClusterUnreachable as error:
        raise click.ClickException(str(error)) from error
    if output != "json":
        click.echo(place.where(options.name), err=True)
    found = True

    async def render() -> str:
        nonlocal found
        document = await remote_status(place, options.name)
        found = document["found"]
        return json.dumps(document, indent=2) if output == "json" else _text_of(document)

    await watched(render, watch=watch)
    return 0 if found else NOT_RUNNING


async def remote_status(place: Place, name: str | None) -> Document:
    """The whole document; ``found`` is false when the API server says that there is no such ThreadCluster."""
    async with AsyncExitStack() as stack:
        opening = {"API server": Source(lambda: _open(stack, place), _API_S)}
        opened, failures = await collect(opening)
        if failures:
            return _document(place, name, {}, failures)
        reached: Connection = opened["API server"]
        resource: dict[str, Any] = {}
        try:
            resource, failures = await collect({"ThreadCluster": Source(lambda: _find(reached, name), _OBJECT_S)})
        except ClusterNotFound as error:
            return _document(place, name, {}, [{"source": "ThreadCluster", "cause": str(error)}], found=False)
        known = name or resource.get("ThreadCluster", {}).get("metadata", {}).get("name")
        if known is None:
            return _document(place, name, {}, failures)
        more, more_failures = await collect(
            {
                "pods": Source(lambda: _pods(reached, known), _OBJECT_S),
                "workers": Source(lambda: _ownership(reached, known), _WORKERS_S),
            }
        )
        return _document(place, known, resource | more, failures + more_failures)


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what a question raises into the cause of a row; that there is no such ThreadCluster is an answer."""
    try:
        yield
    except ClusterNotFound:
        raise
    except KubeError as error:
        raise SourceFailed(sentence(error)) from error
    except (ClusterUnreachable, WorkerRefused, aiohttp.ClientError) as error:
        raise SourceFailed(str(error)) from error


async def _open(stack: AsyncExitStack, place: Place) -> Connection:
    with _explained():
        return await stack.enter_async_context(connection(place))


async def _find(reached: Connection, name: str | None) -> Object:
    with _explained():
        return await find(reached.kube, reached.namespace, name)


async def _pods(reached: Connection, name: str) -> list[Object]:
    labels = ",".join(f"{key}={value}" for key, value in selector_of(name, "worker").items())
    with _explained():
        return list((await reached.kube.list(POD, reached.namespace, labels)).items)


async def _ownership(reached: Connection, name: str) -> OwnershipResponse:
    with _explained():
        async with reached.workers(name) as workers:
            return await workers.ownership()


def _document(
    place: Place, name: str | None, answers: dict[str, Any], failures: list[dict[str, str]], *, found: bool = True
) -> Document:
    resource: Object = answers.get("ThreadCluster", {})
    status, spec = (resource.get(part) or {} for part in ("status", "spec"))
    conditions = [
        {field: each.get(field) for field in ("type", "status", "reason", "message")}
        for each in status.get("conditions") or ()
    ]
    ownership: OwnershipResponse | None = answers.get("workers")
    return {
        "name": name,
        "namespace": place.namespace,
        "context": place.access.context,
        "found": found,
        "ready": is_ready(resource),
        "url": status.get("endpoint"),
        "replicas": spec.get("replicas"),
        "conditions": conditions,
        "database": database_report([ownership] if ownership is not None else []),
        "workers": workers_of(answers.get("pods", []), ownership),
        "failures": failures,
    }


def is_ready(resource: Object) -> bool:
    """Whether a ThreadCluster's status says Ready, of the spec as it is now."""
    status = resource.get("status") or {}
    conditions = status.get("conditions") or ()
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return ready and status.get("observedGeneration") == resource.get("metadata", {}).get("generation")


def workers_of(pods: list[Object], ownership: OwnershipResponse | None) -> list[Document]:
    """The workers that have a pod, and those that own shards without one."""
    phases = {pod["metadata"]["name"]: _phase(pod) for pod in pods}
    owned: dict[str, list[int]] = {}
    for shard in ownership.shards if ownership is not None else ():
        if shard.owner is not None:
            owned.setdefault(shard.owner, []).append(shard.id)
    found = []
    for name in sorted(phases.keys() | owned.keys()):
        entry = ownership.worker(name) if ownership is not None else None
        state = None
        if entry is not None:
            state = "draining" if entry.draining else "cordoned" if entry.cordoned else entry.state.value
        shards = owned.get(name, []) if ownership is not None else None
        found.append({"name": name, "state": state, "pod": phases.get(name), "shards": shards})
    return found


def _phase(pod: Object) -> str:
    """A pod in one word: the wait of a container says more than the phase."""
    status = pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    return "Ready" if ready else str(status.get("phase") or "Unknown")


def _text_of(document: Document) -> str:
    state = "ready" if document["ready"] else "not ready"
    lines = [f"{document['name'] or 'ThreadCluster'}: {state}, {document['url'] or 'no address'}"]
    database = document["database"]
    if database is not None and database["state"] != DatabaseState.CONNECTED:
        lines.append(f"{database['reason']}: {database['message']}")
    parts = ["\n".join(lines)]
    if document["conditions"]:
        rows: list[tuple[object, ...]] = [("CONDITION", "STATUS", "REASON", "MESSAGE")]
        parts.append(table([*rows, *(tuple(each.values()) for each in document["conditions"])]))
    if document["workers"]:
        rows = [("WORKER", "STATE", "POD", "SHARDS")]
        for each in document["workers"]:
            shards = None if each["shards"] is None else len(each["shards"])
            rows.append((each["name"], each["state"], each["pod"], shards))
        parts.append(table(rows))
    if failed := failure_rows(document["failures"]):
        parts.append(table(failed))
    return "\n\n".join(parts)
