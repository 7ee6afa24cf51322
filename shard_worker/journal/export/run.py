"""Exporting a journal: shard by shard, each from where the manifest says to the head that the shard has when its turn comes.

An export runs beside live workers, writes nothing to the database and locks nothing.  It reads in pages that are transactions of
their own (`shard_worker.journal.short_reads`), so that it holds up neither vacuum nor a migration.

Before a shard is gone on with, its last exported event must still be in the journal, by all that identifies it.  Where it is
not, a fail-over, or storage that was set back, has lost events that were exported: the shard stops, until someone decides that
the files of these events no longer count.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shard_worker.database.connection import DatabaseSuperseded, open_connection
from shard_worker.database.tls import BY_DSN, Tls
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.journal.export.files import open_file, require_kind, seal
from shard_worker.journal.export.manifest import Closed, ExportRefused, Kind, Manifest
from shard_worker.journal.export.report import Reason, Report, Stop
from shard_worker.journal.export.rows import ExportRow, StoredRow, readable, unreadable
from shard_worker.journal.export.source import End, EventSource, Origin

FILE_EVENTS: Final = 100_000
FILE_CHARACTERS: Final = 128 << 20
"""Characters of payloads after which a file is closed: an event may hold a million."""
_SAY_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """An export as it is wanted; None: as the folder has it, and in a new one the default."""

    kind: Kind | None = None
    texts: bool | None = None
    file_events: int = FILE_EVENTS
    take_back: bool = False
    """Whether files of events that the journal has lost are taken back, so that their shard goes on."""
    pass_undecodable: bool = False


async def export(
    dsn: str, folder: Path, options: Options, *, progress: Callable[[str], None], tls: Tls = BY_DSN
) -> Report:
    """Export what is new; ``progress`` hears a sentence every two seconds, none when it is faster.

    Raises `shard_worker.database.connection.DatabaseError`, and `ExportRefused` when the folder cannot take the export.  Whatever
    ends a run, the next one goes on from the last closed file.
    """
    if options.kind is not None:
        require_kind(options.kind)
    connection = await open_connection(dsn, "threadcluster-export", statement_s=None, tls=tls)
    try:
        source = EventSource(connection)
        await source.begin()
        origin = await source.origin()
        with Manifest(folder) as manifest:
            begun = manifest.begin(origin, options.kind, options.texts)
            require_kind(begun.files)
            source.read_texts(texts=begun.texts)
            return await _Run(source, origin, manifest, options, progress).report()
    except OSError as error:
        raise ExportRefused(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; every file that was closed"
            " counts, and the next run goes on behind it"
        ) from error
    finally:
        connection.terminate()


@dataclass
class _Building:
    """A file while it is made."""

    first: int
    last: int
    undecodable: int = 0
    characters: int = 0
    checksum: int = 0
    end: StoredRow | None = None
    stop: Stop | None = None
    ready: list[ExportRow] = field(default_factory=list)

    @property
    def events(self) -> int:
        return self.last - self.first + 1

    def add(self, stored: StoredRow, row: ExportRow) -> None:
        self.ready.append(row)
        self.last = stored.shard_seq
        self.checksum += stored.checksum
        self.characters += len(stored.payload or "")
        self.end = stored


class _Run:
    def __init__(
        self,
        source: EventSource,
        origin: Origin,
        manifest: Manifest,
        options: Options,
        progress: Callable[[str], None],
    ) -> None:
        self._source = source
        self._origin = origin
        self._manifest = manifest
        self._options = options
        self._progress = progress
        self._began = self._reported = time.monotonic()
        self._before = sum(each.events for each in manifest.all_files)
        self._events = 0
        self._files = 0
        self._stops: list[Stop] = []
        self._behind: list[int] = []

    async def report(self) -> Report:
        if self._origin.history < self._manifest.history:
            raise DatabaseSuperseded(
                f"this server is on timeline {self._origin.history[0]} ({self._origin.history[1]}), and the export was"
                f" read from timeline {self._manifest.history[0]} ({self._manifest.history[1]}): it is an old primary,"
                " or a standby that is behind"
            )
        for shard_id in range(self._origin.shards):
            await self._shard(shard_id)
        files = list(self._manifest.all_files)
        return Report(
            cluster=self._origin.cluster,
            folder=str(self._manifest.folder),
            new_events=self._events,
            new_files=self._files,
            events=sum(each.events for each in files),
            files=len(files),
            checksum=str(sum(int(each.checksum) for each in files)),
            undecodable=sum(each.undecodable for each in files),
            behind=tuple(self._behind),
            seconds=round(time.monotonic() - self._began, 3),
            longest_transaction_seconds=round(self._source.longest_s, 3),
            stops=tuple(self._stops),
        )

    async def _shard(self, shard_id: int) -> None:
        head = await self._source.head(shard_id)
        after = await self._resume(shard_id, head)
        while after is not None and after < head:
            after = await self._file(shard_id, after, head)

    async def _resume(self, shard_id: int, head: int) -> int | None:
        """The last number that is exported; None where the shard cannot go on."""
        files = self._manifest.files(shard_id)
        if not files:
            return 0
        newest = files[-1]
        if await self._holds(newest):
            return newest.last
        if self._origin.standby and head < newest.last and self._origin.history == (newest.timeline, newest.generation):
            self._behind.append(shard_id)
            return None
        kept = 0
        for number in range(len(files) - 1, 0, -1):
            if await self._holds(files[number - 1]):
                kept = number
                break
        if self._options.take_back:
            self._manifest.take_back(shard_id, files[kept:], self._origin)
            return files[kept].first - 1
        self._stop(
            *(shard_id, Reason.LOST, newest.last),
            f"it was exported, and the journal, which ends at {head}, does not have it any more: a fail-over lost events,"
            f" some from number {files[kept].first} on; they are in {', '.join(each.file for each in files[kept:][:3])}"
            + (f" and {len(files) - kept - 3} more files" if len(files) - kept > 3 else "")
            + "; with --take-back these files count no more, and the shard is exported again from there",
        )
        return None

    async def _holds(self, file: Closed) -> bool:
        """Whether the journal still has the last event of a file, and with it every event before."""
        found: End | None = await self._source.end_at(file.shard, file.last)
        return found == file.end

    async def _file(self, shard_id: int, after: int, head: int) -> int | None:
        """Make one file; the last number in it, or None where the shard stops."""
        building = _Building(first=after + 1, last=after)
        part = self._manifest.part(shard_id, building.first)
        file = None
        try:
            while building.stop is None and building.last < head and not self._full(building):
                most = self._options.file_events - building.events
                page = await self._source.page(shard_id, building.last, head, most)
                self._take(shard_id, building, page, head)
                if building.ready:
                    file = file or open_file(self._manifest.kind, part)
                    file.write(building.ready)
                    building.ready.clear()
                self._say(building.events)
            if file is not None:
                file.close()
                self._close(shard_id, building, part)
        except BaseException:
            if file is not None:
                with contextlib.suppress(Exception):  # the first fault is raised; the file is taken away in any case
                    file.close()
            part.unlink(missing_ok=True)
            raise
        if building.stop is not None:
            self._stops.append(building.stop)
            return None
        return building.last

    def _full(self, building: _Building) -> bool:
        return building.events >= self._options.file_events or building.characters >= FILE_CHARACTERS

    def _take(self, shard_id: int, building: _Building, page: list[StoredRow], head: int) -> None:
        """Take the rows of a page, up to the first that may not be exported."""
        for stored in page:
            if stored.shard_seq != building.last + 1:
                break
            try:
                row = readable(stored)
            except UndecodableEvent as error:
                if not self._options.pass_undecodable:
                    building.stop = Stop(
                        *(shard_id, Reason.UNDECODABLE, stored.shard_seq),
                        f"event {stored.seq_nr} of thread {stored.thread_id} cannot be read: {error}; export with the"
                        " release that wrote it, or pass such events with --pass-undecodable",
                    )
                    return
                row = unreadable(stored)
                building.undecodable += 1
            building.add(stored, row)
        if not page or building.last < page[-1].shard_seq:
            building.stop = Stop(
                *(shard_id, Reason.GAP, building.last + 1),
                f"it is missing, and the journal goes on to {head}: `shard-worker fsck` says what else is; nothing behind"
                " a gap is exported",
            )

    def _close(self, shard_id: int, building: _Building, part: Path) -> None:
        assert building.end is not None  # a file is begun with its first event
        name = self._manifest.name(shard_id, building.first, building.last)
        sealed = seal(part, self._manifest.folder / name)
        timeline, generation = self._origin.history
        self._manifest.add(
            Closed(
                shard=shard_id,
                first=building.first,
                last=building.last,
                file=name,
                events=building.events,
                undecodable=building.undecodable,
                bytes=sealed.bytes,
                sha256=sealed.sha256,
                checksum=str(building.checksum),
                epoch=building.end.epoch,
                thread_id=building.end.thread_id,
                seq_nr=building.end.seq_nr,
                command_id=building.end.command_id,
                timeline=timeline,
                generation=generation,
            )
        )
        self._events += building.events
        self._files += 1

    def _stop(self, shard_id: int, reason: Reason, shard_seq: int, detail: str) -> None:
        self._stops.append(Stop(shard_id, reason, shard_seq, detail))

    def _say(self, open_events: int) -> None:
        now = time.monotonic()
        if now - self._reported < _SAY_EVERY_S:
            return
        self._reported = now
        done = self._before + self._events + open_events
        of = f" of about {self._origin.about:,}" if self._origin.about >= done else ""
        self._progress(f"{done:,}{of} events exported, {self._files:,} files closed, {len(self._stops)} shards stopped")
