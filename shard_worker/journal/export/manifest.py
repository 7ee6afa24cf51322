"""The manifest of an export: what its files are, and with that how far the export is.

The manifest is a file of lines that is only ever added to, one line for each closed file.  A file counts when its line is there.
The file is whole and on disk, under its last name, before its line is written, and the line is on disk before the next file
is begun.  So an export that is ended at any moment, or that the disk refuses, goes on from the last line; a file without a line,
and a line without its end, are taken away first.

A closed file never changes, and its line neither.  When a fail-over has lost events that were exported, a line takes their files
back: they stay in the folder, as the only trace of those events, and do not count any more.
"""

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from shard_worker.journal.export.rows import COLUMNS
from shard_worker.journal.export.source import End, Origin

FORMAT: Final = 1
Kind = Literal["jsonl", "parquet"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MANIFEST: Final = "manifest.jsonl"
_LOCK: Final = ".lock"
_PART: Final = ".part"
_NO_EXPORT: Final = {_LOCK, MANIFEST + _PART, "lost+found"}
"""Names in a folder that may become an export: those of a first run that was ended, and of the root of a new disk."""
_OURS: Final = re.compile(r"\d{12}(-\d{12}(\.r\d+)?\.(jsonl|parquet))?(\.part)?")


class ExportRefused(Exception):
    """The folder cannot take this export; the message says why, and what to do."""


class Begun(Struct, frozen=True, tag="export", tag_field="kind"):
    """The first line: what holds for every file of the folder."""

    format: int
    cluster: str
    shards: int
    files: Kind
    texts: bool
    columns: tuple[str, ...]


class Closed(Struct, frozen=True, tag="file", tag_field="kind"):
    """A closed file: the events of one shard from ``first`` to ``last``, each once, in order."""

    shard: int
    first: int
    last: int
    file: str
    events: int
    undecodable: int
    bytes: int
    sha256: str
    checksum: str
    """The sum of the events' checksums, as text: many programs read numbers of JSON as floating point."""
    epoch: int
    """Of the last event, as are the three fields that follow; by them the next run knows it again."""
    thread_id: str
    seq_nr: int
    command_id: str | None
    timeline: int
    """Of the history that the events were read from, as ``generation``."""
    generation: str

    @property
    def end(self) -> End:
        """The last event."""
        return End(self.epoch, self.thread_id, self.seq_nr, self.command_id)


class TakenBack(Struct, frozen=True, tag="taken-back", tag_field="kind"):
    """Files of a shard that do not count any more, from event ``first`` on: a fail-over has lost events that they hold."""

    shard: int
    first: int
    files: tuple[str, ...]
    timeline: int
    generation: str


_decode: Final = msgspec.json.Decoder(Begun | Closed | TakenBack).decode
_encode: Final = msgspec.json.Encoder().encode


class Manifest:
    """The manifest of one folder, which this process alone writes until the end of the block.

    Raises `ExportRefused`, and `OSError` where the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / MANIFEST
        self._lock = -1
        self._begun: Begun | None = None
        self._files: dict[int, list[Closed]] = {}
        self._taken_back: dict[int, int] = {}
        self._names: set[str] = set()
        self.history: tuple[int, str] = (0, "")
        """The newest history that a file was read from."""

    def __enter__(self) -> "Manifest":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ExportRefused(
                f"another export is writing to {self.folder}: wait for its end, or name another folder"
            ) from error
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)  # and with it the lock

    def begin(self, origin: Origin, kind: Kind | None, texts: bool | None) -> Begun:
        """The first line, which is written when there is none.  An argument that is None is as the folder has it."""
        begun = self._begun
        if begun is None:
            if others := sorted({each.name for each in self.folder.iterdir()} - _NO_EXPORT):
                raise ExportRefused(
                    f"{self.folder} holds {others[0]!r} and no {MANIFEST}: name an empty folder, or one of an export"
                )
            begun = Begun(FORMAT, origin.cluster, origin.shards, kind or "jsonl", bool(texts), COLUMNS)
            write_aside(self._path, _encode(begun) + b"\n")
        self._begun = begun
        if begun.format != FORMAT:
            raise ExportRefused(f"{self.folder} is an export of format {begun.format}, this release writes {FORMAT}")
        for what, there, asked in (
            ("of cluster", begun.cluster, origin.cluster),
            ("of as many shards as", begun.shards, origin.shards),
            ("of files of kind", begun.files, kind),
            ("with --texts", begun.texts, texts),
        ):
            if asked is not None and there != asked:
                raise ExportRefused(f"{self.folder} is an export {what} {there}, not {asked}: name another folder")
        self._take_away_unfinished()
        return begun

    @property
    def kind(self) -> Kind:
        """The kind of the folder's files, once it is begun."""
        assert self._begun is not None, "begin comes first"
        return self._begun.files

    def files(self, shard_id: int) -> list[Closed]:
        """The files of a shard that count, in order."""
        return self._files.get(shard_id, [])

    @property
    def all_files(self) -> Iterable[Closed]:
        """The files of all shards that count."""
        return (each for files in self._files.values() for each in files)

    def part(self, shard_id: int, first: int) -> Path:
        """Where a file is written before it is closed; its folder is made."""
        place = self.folder / f"shard-{shard_id:04}"
        if not place.is_dir():
            place.mkdir()
            sync_folder(self.folder)
        return place / f"{first:012}{_PART}"

    def name(self, shard_id: int, first: int, last: int) -> str:
        """The last name of a file, which no other file of the folder has or had."""
        again = self._taken_back.get(shard_id, 0)
        return f"shard-{shard_id:04}/{first:012}-{last:012}{f'.r{again}' if again else ''}.{self.kind}"

    def add(self, closed: Closed) -> None:
        """A file is closed: from now on it counts."""
        self._append(closed)
        self._note(closed)

    def take_back(self, shard_id: int, files: list[Closed], origin: Origin) -> None:
        """The last files of a shard do not count any more."""
        taken = TakenBack(shard_id, files[0].first, tuple([each.file for each in files]), *origin.history)
        self._append(taken)
        self._note(taken)

    def _note(self, line: Closed | TakenBack) -> None:
        files = self._files.setdefault(line.shard, [])
        self.history = max(self.history, (line.timeline, line.generation))
        if isinstance(line, Closed):
            files.append(line)
            self._names.add(line.file)
        else:
            self._files[line.shard] = [each for each in files if each.file not in line.files]
            self._taken_back[line.shard] = self._taken_back.get(line.shard, 0) + 1

    def _append(self, line: Struct) -> None:
        size = self._path.stat().st_size
        with self._path.open("ab", buffering=0) as file:
            try:
                raw = _encode(line) + b"\n"
                if file.write(raw) != len(raw):
                    raise OSError("the line was written in part")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def _read(self) -> None:
        if not self._path.exists():
            return
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:  # an export was ended while it wrote the line: the line was never there
            os.truncate(self._path, len(whole))
        for number, text in enumerate(whole.splitlines(), 1):
            try:
                line = _decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ExportRefused(f"{self._path}: line {number} is none of an export: {error}") from error
            if isinstance(line, Begun) != (number == 1):
                raise ExportRefused(f"{self._path}: line {number} is not where an export writes it")
            if isinstance(line, Begun):
                self._begun = line
            else:
                self._note(line)

    def _take_away_unfinished(self) -> None:
        """Remove files that no line names: their export was ended before they counted."""
        for path in self.folder.glob("shard-*/*"):
            name = str(path.relative_to(self.folder))
            if name not in self._names and _OURS.fullmatch(path.name):
                path.unlink()


def write_aside(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when the power fails."""
    part = path.with_name(path.name + _PART)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
