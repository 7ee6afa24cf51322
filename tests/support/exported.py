"""An export as a consumer reads it: the files that the manifest names, and nothing else."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow.parquet

Row = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """The lines of a manifest, and the rows of the files that count."""

    lines: list[Row]
    rows: list[Row]

    @property
    def files(self) -> list[Row]:
        """The files that count, in the order in which they were closed."""
        back = {name for line in self.lines if line["kind"] == "taken-back" for name in line["files"]}
        return [line for line in self.lines if line["kind"] == "file" and line["file"] not in back]

    @property
    def checksum(self) -> int:
        """The sum of all files'."""
        return sum(int(line["checksum"]) for line in self.files)

    def of(self, shard: int) -> list[Row]:
        """The rows of one shard."""
        return [row for row in self.rows if row["shard_id"] == shard]


def read_export(folder: Path) -> Exported:
    """Everything that counts.  Each file is what its line says, and a shard's files join without a gap or an overlap."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    found = Exported(lines, [])
    heads: dict[int, int] = {}
    for line in found.files:
        path = folder / line["file"]
        raw = path.read_bytes()
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (line["bytes"], line["sha256"])
        rows = parquet_rows(path) if path.suffix == ".parquet" else [json.loads(each) for each in raw.splitlines()]
        assert line["first"] == heads.get(line["shard"], 0) + 1
        assert [(row["shard_id"], row["shard_seq"]) for row in rows] == [
            (line["shard"], number) for number in range(line["first"], line["last"] + 1)
        ]
        assert line["events"] == len(rows)
        heads[line["shard"]] = line["last"]
        found.rows.extend(rows)
    return found


def parquet_rows(path: Path) -> list[Row]:
    """The rows of a Parquet file, as JSON lines would have them."""
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows:
        row["payload"] = None if row["payload"] is None else json.loads(row["payload"])
        for name in ("at", "written_at"):
            row[name] = None if row[name] is None else round(row[name].timestamp() * 1000)
    return rows


async def checksum_of_journal(connection: asyncpg.Connection, *, texts: bool) -> tuple[int, int]:
    """Count and checksum of the whole journal, as docs/events.md says how to ask for them."""
    view = "journal_event_text" if texts else "journal_event"
    row = await connection.fetchrow(f"SELECT count(*), coalesce(sum(checksum), 0) FROM {view}", timeout=600)
    assert row is not None
    return row[0], int(row[1])
