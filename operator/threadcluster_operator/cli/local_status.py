"""The status of a local cluster: of its supervisor, or else of its workers, and of the disk that it is on.

It is run often, so a module that it needs without a supervisor alone is imported then.
"""

import shutil
from pathlib import Path
from typing import Any, Final

from threadcluster_operator.cli.sources import Document, Source, collect, failure_rows, in_thread
from threadcluster_operator.cli.table import table
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir

_SUPERVISOR_S: Final = 5.0
_WORKERS_S: Final = 4.0
_DISK_S: Final = 2.0
_LITTLE_BYTES: Final = 128 << 20
"""Free space below which status says so: Postgres writes its log of changes in files of 16 MiB, and ends when it cannot."""


async def local_status(place: DataDir) -> tuple[Document, bool]:
    """The whole document, and whether a supervisor answers; where none does, the workers that live are asked."""
    sources = {"disk": Source(lambda: in_thread(lambda: _disk(place.path)), _DISK_S)}
    if place.is_locked():
        sources["supervisor"] = Source(ControlClient(place).status, _SUPERVISOR_S)
    found, failures = await collect(sources)
    document = found.get("supervisor")
    if document is None:
        direct, more = await _direct(place)
        document, failures = direct, failures + more
    return document | {"disk": found.get("disk"), "failures": failures}, "supervisor" in found


def _disk(path: Path) -> Document:
    usage = shutil.disk_usage(path if path.exists() else Path.cwd())
    return {"freeBytes": usage.free, "totalBytes": usage.total, "full": usage.free < _LITTLE_BYTES}


async def _direct(place: DataDir) -> tuple[Document, list[dict[str, str]]]:
    """The cluster as files and workers know it, while no supervisor answers."""
    from threadcluster_operator.cli.without_supervisor import ask_workers, document_of

    sources = {"workers": Source(lambda: ask_workers(place), _WORKERS_S)} if place.worker_ports() else {}
    found, failures = await collect(sources)
    return document_of(place, found.get("workers", {})), failures


def text_of(document: Document) -> str:
    """The document for people."""
    parts = [_head(document), table(_worker_rows(document["workers"]))]
    if rows := failure_rows(document["failures"]):
        parts.append(table(rows))
    return "\n\n".join(parts)


def _head(document: Document) -> str:
    state = "ready" if document["ready"] else "not ready"
    postgres = document["postgres"]["pid"] or "elsewhere"
    lines = [f"{document['name']}: {state}, {document['url'] or 'no address'}, Postgres {postgres}"]
    if claimed := document.get("claimedByOther"):  # a supervisor of an earlier release does not say
        lines.append(f"DatabaseClaimedByOther: {claimed}")
    database, disk = document.get("database"), document["disk"]
    if database is not None and database["state"] != "connected":
        lines.append(f"{database['reason']}: {database['message']}")
    if disk is not None and disk["full"]:
        lines.append(
            f"disk full: {disk['freeBytes'] >> 20} MiB of {disk['totalBytes'] >> 20} MiB are free where"
            f" {document['dataDir']} is; without space Postgres ends, and nothing can be stored: free some"
        )
    return "\n".join(lines)


def _worker_rows(workers: list[Document]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("WORKER", "STATE", "PID", "SHARDS", "ADDRESS", "MANAGEMENT")]
    return rows + [
        (each["name"], each["state"], each["pid"], len(each["shards"]), each["address"], each["managementAddress"])
        for each in workers
    ]
