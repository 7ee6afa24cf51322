"""Files of an export, of two kinds: each is written aside, brought to disk and then named."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Raw

from shard_worker.journal.export.manifest import ExportRefused, Kind, sync_folder
from shard_worker.journal.export.rows import ExportRow

_GROUP_ROWS: Final = 50_000
_GROUP_CHARACTERS: Final = 16 << 20
"""Rows, and characters of payloads, of a row group of Parquet: what is in memory before it is written."""


class Sealed(NamedTuple):
    """A file on disk, under its last name."""

    bytes: int
    sha256: str


class EventFile(Protocol):
    """A file that is being written."""

    def write(self, rows: Iterable[ExportRow]) -> None: ...

    def close(self) -> None: ...


_encode_lines: Final = msgspec.json.Encoder().encode_lines


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Iterable[ExportRow]) -> None:
        self._file.write(_encode_lines([_line(row) for row in rows]))

    def close(self) -> None:
        self._file.close()


def _line(row: ExportRow) -> dict[str, object]:
    """The row for the encoder: its payload is JSON already."""
    return {**row._asdict(), "payload": None if row.payload is None else Raw(row.payload.encode())}


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._arrow, parquet = _pyarrow()
        self._schema = _parquet_schema(self._arrow)
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[ExportRow] = []
        self._held = 0

    def write(self, rows: Iterable[ExportRow]) -> None:
        for row in rows:
            self._rows.append(row)
            self._held += len(row.payload or "")
        if len(self._rows) >= _GROUP_ROWS or self._held >= _GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        columns = [
            self._arrow.array(values, type=field.type)
            for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.table(columns, schema=self._schema), row_group_size=len(self._rows))
        self._rows.clear()
        self._held = 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def _parquet_schema(arrow: Any) -> Any:  # pyarrow has no types of its own
    instant = arrow.timestamp("ms", tz="UTC")
    return arrow.schema(
        [
            arrow.field("shard_id", arrow.int32(), nullable=False),
            arrow.field("shard_seq", arrow.int64(), nullable=False),
            arrow.field("thread_id", arrow.string(), nullable=False),
            arrow.field("seq_nr", arrow.int64(), nullable=False),
            arrow.field("event", arrow.string()),
            arrow.field("version", arrow.int16(), nullable=False),
            arrow.field("at", instant),
            arrow.field("account_id", arrow.string()),
            arrow.field("payload", arrow.string()),
            arrow.field("epoch", arrow.int64(), nullable=False),
            arrow.field("command_id", arrow.string()),
            arrow.field("written_at", instant, nullable=False),
        ]
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExportRefused(
            "files of kind parquet need pyarrow: pip install 'threadcluster[parquet]', or write files of kind jsonl"
        ) from error
    return pyarrow, pyarrow.parquet


def require_kind(kind: Kind) -> None:
    """Raises `ExportRefused` when what writes files of a kind is not installed."""
    if kind == "parquet":
        _pyarrow()


def open_file(kind: Kind, path: Path) -> EventFile:
    """Begin a file at ``path``."""
    return _JsonLines(path) if kind == "jsonl" else _Parquet(path)


def seal(part: Path, named: Path) -> Sealed:
    """Bring a closed file to disk, and give it its last name."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        os.fsync(file.fileno())
    part.rename(named)
    sync_folder(named.parent)
    return Sealed(size, digest)
