"""The columns of a batch that only adds plain messages, which under load is nearly every batch, made in one pass over its rows.

Its columns are those that `shard_worker.readmodel.projection` gives for the same events (a property test compares them): one new row of
thread_message each, and the newest event of each thread.  Objects of each event and row, as there, would cost more than
Postgres spends on storing them.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from shard_worker.database import binary_arrays
from shard_worker.domain.events import Event, MessagesAdded
from shard_worker.domain.ids import ulid_bytes
from shard_worker.readmodel.recent_rows import RecentRow

_ACCOUNTS_KEPT: Final = 4_096
"""Accounts whose id is kept as the tables have it; about a megabyte."""


class PostBatch:
    """Plain messages, without reply link and addressees, of any threads; `add` takes the rows of a shard in their order."""

    def __init__(self, decode: Callable[[int, int, bytes], Event]) -> None:
        self._decode = decode
        self._heads: dict[bytes, tuple[int, int, int, int]] = {}
        """By thread, its newest event: sequence number, epoch, instant and transaction."""
        self._threads: list[bytes] = []
        self._numbers: list[int] = []
        self._indexes: list[int] = []
        self._ids: list[bytes] = []
        self._senders: list[bytes] = []
        self._bodies: list[bytes | None] = []
        self._instants: list[int] = []
        self.reached: dict[int, int] = {}
        """By shard, the last event that the batch has."""

    @property
    def messages(self) -> int:
        """How many messages the batch has."""
        return len(self._threads)

    def add(self, shard_id: int, position: int, rows: Sequence[RecentRow], stored: Sequence[tuple[int, int]]) -> bool:
        """Take the events of a shard behind ``position``; ``stored`` has epoch and transaction of each.

        False when one of them is something else, and then the batch is of no use.  Raises
        `shard_worker.journal.codec.UndecodableEvent`, and ValueError or TypeError for contents that are no ids.
        """
        for (writer, number, event_type, event_version, payload), (epoch, xid) in zip(rows, stored, strict=True):
            event = self._decode(event_type, event_version, payload)
            if type(event) is not MessagesAdded:
                return False
            thread, at = writer.bytes, event.at
            self._heads[thread] = number, epoch, at, xid
            sender = _account_bytes(event.sender_id)
            for index, message in enumerate(event.messages):
                if message.reply_message_id is not None or message.to_account_ids:
                    return False
                self._threads.append(thread)
                self._numbers.append(number)
                self._indexes.append(index)
                self._ids.append(ulid_bytes(message.message_id))
                self._senders.append(sender)
                text = message.text
                self._bodies.append(None if text is None else text.encode())
                self._instants.append(at)
        self.reached[shard_id] = position + len(rows)
        return True

    def arrays(self) -> tuple[bytes, ...]:
        """Ready-made arrays: of the threads id, sequence number, epoch, instant and transaction (text); then of the messages
        thread, sequence number, index, id, sender, body and instant.  Raises one of `binary_arrays.UNENCODABLE`.
        """
        heads = self._heads.values()
        return (
            binary_arrays.raw_uuids(list(self._heads)),
            binary_arrays.int8s([number for number, _, _, _ in heads]),
            binary_arrays.int8s([epoch for _, epoch, _, _ in heads]),
            binary_arrays.int8s([at for _, _, at, _ in heads]),
            binary_arrays.texts([str(xid) for _, _, _, xid in heads]),
            binary_arrays.raw_uuids(self._threads),
            binary_arrays.int8s(self._numbers),
            binary_arrays.int2s(self._indexes),
            binary_arrays.raw_uuids(self._ids),
            binary_arrays.raw_uuids(self._senders),
            binary_arrays.raw_texts(self._bodies),
            binary_arrays.int8s(self._instants),
        )


@lru_cache(maxsize=_ACCOUNTS_KEPT)
def _account_bytes(account_id: str) -> bytes:
    """The senders of a moment are few."""
    return ulid_bytes(account_id)
