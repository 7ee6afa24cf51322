"""Answers to a run of keyed commands, kept for a comparison with the cluster's state afterwards.

A `Record` is plain data (it can be written to a file and read in another process).  Every command in it stores exactly
one event when it succeeds, so that a thread's sequence number can be accounted for to the unit.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class Sent(Struct, frozen=True):
    """One keyed command as it was sent, byte for byte the same at every retry.

    ``ordinal`` counts the commands of one client; a client sends a command only after the last one was settled.
    ``texts`` are those of the messages it posts, each unique in the run; ``removes`` are message ids.
    """

    client: int
    ordinal: int
    operation: str
    thread_id: str
    account_id: str
    path: str
    body: str
    key: str
    texts: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()


class Acknowledged(Struct, frozen=True):
    """An acknowledged command, with its answer."""

    sent: Sent
    thread_id: str
    message_ids: tuple[str, ...]
    sequence_nr: int
    attempts: int = 1


class Refused(Struct, frozen=True):
    """A command that got a definite no."""

    sent: Sent
    status: int
    code: str


class Record(Struct, frozen=True):
    """All answers of one drive.

    ``unresolved`` are commands whose outcome was still unknown when the drive gave up: each may be there once, or not
    at all.  ``surprises`` are answers that no correct server gives (a stale read, a 500, an answer of the wrong shape).
    """

    seed: int
    clients: int
    acknowledged: tuple[Acknowledged, ...]
    refused: tuple[Refused, ...]
    unresolved: tuple[Sent, ...]
    surprises: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read what `save` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


class Recorder:
    """Gathers a `Record` while clients run; one event loop only."""

    def __init__(self, *, seed: int = 0, clients: int = 0) -> None:
        self._seed = seed
        self._clients = clients
        self._acknowledged: list[Acknowledged] = []
        self._refused: list[Refused] = []
        self._unresolved: list[Sent] = []
        self._surprises: Counter[str] = Counter()

    @property
    def acknowledged_count(self) -> int:
        """How many commands were acknowledged so far; crash tests wait for it to grow."""
        return len(self._acknowledged)

    def acknowledge(self, sent: Sent, document: dict[str, Any], attempts: int = 1) -> Acknowledged | None:
        """Keep a success; None, and a surprise, when its shape is not the API's."""
        thread_id = document.get("threadId", sent.thread_id)
        sequence_nr = document.get("sequenceNr")
        message_ids = document.get("messageIds", [])
        if thread_id != sent.thread_id or not isinstance(sequence_nr, int) or not isinstance(message_ids, list):
            self.surprise(f"{sent.operation} of client {sent.client}: an answer of the wrong shape: {document}")
            self._unresolved.append(sent)
            return None
        kept = Acknowledged(sent, thread_id, tuple(message_ids), sequence_nr, attempts)
        self._acknowledged.append(kept)
        expected = len(sent.texts) if sent.texts else len(sent.removes)
        if len(message_ids) != expected:
            self.surprise(
                f"{sent.operation} of client {sent.client} in {thread_id}: {len(message_ids)} message ids in the answer,"
                f" not {expected}"
            )
        return kept

    def refuse(self, sent: Sent, status: int, code: str) -> None:
        """Keep a definite no."""
        self._refused.append(Refused(sent, status, code))

    def leave_unresolved(self, sent: Sent) -> None:
        """The drive gives up on a command whose outcome is unknown."""
        self._unresolved.append(sent)

    def surprise(self, what: str) -> None:
        """Keep something that no correct server does."""
        self._surprises[what] += 1

    def record(self) -> Record:
        """All of it so far."""
        return Record(
            seed=self._seed,
            clients=self._clients,
            acknowledged=tuple(self._acknowledged),
            refused=tuple(self._refused),
            unresolved=tuple(self._unresolved),
            surprises=tuple(what if n == 1 else f"{what} ({n} times)" for what, n in self._surprises.items()),
        )
