"""How far earlier checks have proved a journal: a small file, from which the next check goes on.

For each shard the file holds the last event that was proved, by all that identifies it.  A check that goes on from there
first sees that this very event is still there, then reads the shard's later events, and from the first event on every
thread that has one of those.  Threads without a later event are not read again, so damage that is done to them after
they were proved is found by a check of everything alone.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from shard_worker.database.connection import DatabaseUnsuitable

_FORMAT: Final = 1
"""Raised when a check proves more than before: what an older one has proved is then read again."""


class Proved(NamedTuple):
    """The last event of a shard that was proved; number 0 where there was none."""

    shard_seq: int = 0
    epoch: int = 0
    thread_id: UUID | None = None
    seq_nr: int = 0


NOTHING: Final = Proved()


class _Shard(msgspec.Struct, rename="camel"):
    shard_seq: int
    epoch: int
    thread_id: UUID | None
    seq_nr: int


class _Document(msgspec.Struct, rename="camel"):
    format: int
    cluster: str
    shards: dict[int, _Shard]


class Position:
    """The proved part of one cluster's journal, kept in ``path``; without a path it is not kept."""

    def __init__(self, cluster: str, path: Path | None) -> None:
        self._cluster = cluster
        self._path = path
        self._shards: dict[int, Proved] = {}

    @classmethod
    def read(cls, cluster: str, path: Path | None) -> "Position":
        """Read the file; nothing is proved when it is missing, or has an older format.

        Raises `DatabaseUnsuitable` when it is about another cluster, or no such file.
        """
        position = cls(cluster, path)
        if path is None or not path.exists():
            return position
        try:
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DatabaseUnsuitable(f"--since: {path} is no file that a check has written: {error}") from error
        if document.cluster != cluster:
            raise DatabaseUnsuitable(
                f"--since: {path} is about cluster {document.cluster!r}, the database belongs to {cluster!r}"
            )
        if document.format == _FORMAT:
            position._shards = {
                shard_id: Proved(each.shard_seq, each.epoch, each.thread_id, each.seq_nr)
                for shard_id, each in document.shards.items()
            }
        return position

    def proved(self, shard_id: int) -> Proved:
        """Up to where a shard was proved."""
        return self._shards.get(shard_id, NOTHING)

    def set(self, shard_id: int, proved: Proved) -> None:
        """A shard was proved up to here; the file says so at once, so that a check that is ended can be gone on with.

        Raises `DatabaseUnsuitable` when the file cannot be written.
        """
        self._shards[shard_id] = proved
        if self._path is not None:
            try:
                _replace(self._path, self._document())
            except OSError as error:
                raise DatabaseUnsuitable(f"--since: {self._path} cannot be written: {error}") from error

    def _document(self) -> bytes:
        shards: Mapping[str, object] = {
            str(shard_id): {
                "shardSeq": each.shard_seq,
                "epoch": each.epoch,
                "threadId": None if each.thread_id is None else str(each.thread_id),
                "seqNr": each.seq_nr,
            }
            for shard_id, each in sorted(self._shards.items())
        }
        return json.dumps({"format": _FORMAT, "cluster": self._cluster, "shards": shards}, indent=1).encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when the power fails."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
