"""Report of a check of the journal: one line a finding for people, one document for programs.

A finding names the place (shard, thread, sequence numbers, epoch) and what is wrong there; it never shows a payload,
so that a report can be passed on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shard_worker.domain.ids import ulid_text


class Check(StrEnum):
    """Kinds of checks: the closed list of a finding's reasons."""

    SHARD_ROW = "shard-row"
    """Every shard has its row, whose epoch is no older than its events and claims."""
    SHARD_SEQ = "shard-seq"
    """The sequence of a shard has no hole and no number twice, and ends no earlier than a claim saw it."""
    THREAD_SEQ = "thread-seq"
    """The sequence of a thread has no hole, and runs the same way as its shard's."""
    PLACE = "place"
    """A thread is on the shard that its id's slice says."""
    EPOCH = "epoch"
    """Epochs never fall along a shard's sequence."""
    CLAIM = "claim"
    """Every epoch with events was claimed by one owner, and its events lie between its claim and the next."""
    PAYLOAD = "payload"
    """Every event decodes, and its metadata is a JSON object."""
    HISTORY = "history"
    """Every event can follow the ones before it."""
    KEY = "key"
    """An idempotency key comes with its body's hash, and occurs once in a thread."""
    COMMAND = "command"
    """One command stored one event."""
    SNAPSHOT = "snapshot"
    """A snapshot is what replaying the events gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, and where."""

    check: Check
    detail: str
    shard_id: int | None = None
    thread_id: UUID | None = None
    shard_seq: int | None = None
    seq_nr: int | None = None
    epoch: int | None = None

    def line(self) -> str:
        """The finding on one line."""
        places = (
            ("shard", self.shard_id),
            ("thread", None if self.thread_id is None else ulid_text(self.thread_id.bytes)),
            ("shard_seq", self.shard_seq),
            ("seq_nr", self.seq_nr),
            ("epoch", self.epoch),
        )
        where = " ".join(f"{name} {value}" for name, value in places if value is not None)
        return f"{self.check}: {where}: {self.detail}".replace("\n", " ")

    def document(self) -> dict[str, object]:
        """The finding for programs; the thread also as the ``uuid`` that the tables hold."""
        return {
            "check": self.check.value,
            "shard": self.shard_id,
            "thread": None if self.thread_id is None else ulid_text(self.thread_id.bytes),
            "threadUuid": None if self.thread_id is None else str(self.thread_id),
            "shardSeq": self.shard_seq,
            "seqNr": self.seq_nr,
            "epoch": self.epoch,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts of the checked rows, and all findings."""

    cluster_id: str
    shards: int
    events: int
    proved_before: int
    """Events that an earlier check has proved, and that were not read again as a shard's order."""
    threads: int
    snapshots_compared: int
    snapshots_ignored: int
    """Snapshots of another state version: a reader throws them away, so there is nothing to compare."""
    seconds: float
    longest_transaction_s: float
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether the journal proves itself."""
        return not self.findings

    def lines(self) -> Iterator[str]:
        """Each finding on a line, then a summary."""
        for finding in self.findings:
            yield finding.line()
        verdict = "clean" if self.clean else f"{len(self.findings)} findings"
        before = f"{self.proved_before} events were proved before, " if self.proved_before else ""
        yield (
            f"cluster {self.cluster_id}: {self.events} events of {self.threads} threads in {self.shards} shards, {before}"
            f"{self.snapshots_compared} snapshots compared, {self.seconds:.1f} s,"
            f" longest transaction {self.longest_transaction_s:.2f} s: {verdict}"
        )

    def to_json(self) -> str:
        """The whole report as one JSON document."""
        return json.dumps(
            {
                "cluster": self.cluster_id,
                "clean": self.clean,
                "shards": self.shards,
                "events": self.events,
                "provedBefore": self.proved_before,
                "threads": self.threads,
                "snapshotsCompared": self.snapshots_compared,
                "snapshotsIgnored": self.snapshots_ignored,
                "seconds": round(self.seconds, 3),
                "longestTransactionSeconds": round(self.longest_transaction_s, 3),
                "findings": [finding.document() for finding in self.findings],
            },
            indent=2,
        )
