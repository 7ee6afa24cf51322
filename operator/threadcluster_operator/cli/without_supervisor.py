"""A local cluster as its files and its workers know it, while no supervisor answers."""

import aiohttp

from shard_worker.contract_internal import OwnershipResponse
from threadcluster_operator.api import InvalidResource, read_resources
from threadcluster_operator.cli.sources import Document, SourceFailed
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.database_report import database_report
from threadcluster_operator.planning.observation import newest
from threadcluster_operator.workers.client import WorkerApiClient

Answers = dict[str, OwnershipResponse]


async def ask_workers(place: DataDir) -> Answers:
    """The answer of each worker that answers.  Raises `SourceFailed` when none does."""
    addresses = [f"https://127.0.0.1:{port}" for port in place.worker_ports().values()]
    async with aiohttp.ClientSession() as session:
        try:
            workers = WorkerApiClient(session, addresses, place.secret_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SourceFailed(f"{place.secret_file} is damaged: {error}") from error
        answers = await workers.answers()
    if not answers:
        raise SourceFailed(f"none of {len(addresses)} workers answers")
    return answers


def document_of(place: DataDir, answers: Answers) -> Document:
    """The document that the supervisor would give, as far as it is known."""
    try:
        resources = read_resources(place.cluster_yaml)
    except InvalidResource:  # there is none, or it is damaged: `up` says so
        resources = None
    return {
        "name": resources.cluster.name if resources is not None else None,
        "ready": False,
        "url": None,
        "replicas": resources.cluster.spec.replicas if resources is not None else 0,
        "claimedByOther": None,
        "database": database_report(answers.values()),
        "dataDir": str(place.path),
        "supervisor": {"pid": None},
        "postgres": {"pid": None, "dsn": None, "dataDir": str(place.postgres)},
        "workers": _workers(answers),
    }


def _workers(answers: Answers) -> list[Document]:
    """The workers that answer; the supervisor alone knows their processes."""
    found = newest(answers.values())
    return [
        {
            "name": entry.name,
            "pid": None,
            "state": "draining" if entry.draining else "cordoned" if entry.cordoned else entry.state.value,
            "incarnation": entry.incarnation,
            "address": None,
            "managementAddress": None,
            "shards": [shard.id for shard in found.shards if shard.owner == entry.name] if found is not None else [],
        }
        for entry in (found.workers if found is not None else ())
        if entry.name in answers
    ]
