"""Report of one run of an export: one line a shard that stopped, one about all, or one document for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an export of a shard stops before its head: the closed list."""

    GAP = "gap"
    """A number of the shard is missing, which no fault of a worker or of Postgres explains: the journal is damaged."""
    UNDECODABLE = "undecodable"
    """This release cannot read the event."""
    LOST = "lost"
    """The journal no longer has events that were exported."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A shard that was not exported up to its head, and what to do."""

    shard: int
    reason: Reason
    shard_seq: int
    detail: str

    def line(self) -> str:
        """For people."""
        return f"{self.reason}: shard {self.shard}, event {self.shard_seq}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    cluster: str
    folder: str
    new_events: int
    new_files: int
    events: int
    """Of all files of the folder that count."""
    files: int
    checksum: str
    """The sum of the checksums of these events."""
    undecodable: int
    behind: tuple[int, ...]
    """Shards of which this server, a standby, does not have everything yet that was exported before."""
    seconds: float
    longest_transaction_seconds: float
    stops: tuple[Stop, ...]

    def lines(self) -> Iterator[str]:
        """For people: what stopped, then the sum."""
        for stop in self.stops:
            yield stop.line()
        if self.behind:
            yield f"behind: this standby lacks events of shards {_some(self.behind)} that are exported already; run again later"
        unread = f", {self.undecodable:,} of them not readable" if self.undecodable else ""
        yield (
            f"cluster {self.cluster}: {self.new_events:,} events exported in {self.new_files:,} files in"
            f" {self.seconds:.1f} s; {self.folder} has {self.events:,} events{unread} in {self.files:,} files,"
            f" checksum {self.checksum}"
        )

    def to_json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=1)


def _some(shards: tuple[int, ...]) -> str:
    return ", ".join(map(str, shards[:5])) + (f" and {len(shards) - 5} more" if len(shards) > 5 else "")
