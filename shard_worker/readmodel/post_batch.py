"""The columns of a batch that only adds plain messages, which under load is nearly every batch, made column by column.

Its columns are those that `shard_worker.readmodel.projection` gives for the same events (a property test compares them): one new row of
thread_message each, and the newest event of each thread.  Objects of each row, as there, would cost more than Postgres spends
on storing them, and so would statements that are run for each event: the events of many rows are read as one document, and
their ids are converted as one number.
"""

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Final, TypeVar

from shard_worker.database import binary_arrays
from shard_worker.domain.events import MessagesAdded, PostedMessage
from shard_worker.journal.codec import decode_posts, posts_format
from shard_worker.readmodel.recent_rows import RecentRow

T = TypeVar("T")


_THREAD: Final = 0
_NUMBER: Final = 1
_TYPE: Final = 2
_VERSION: Final = 3
_PAYLOAD: Final = 4
"""The parts of a `RecentRow`; to unpack the whole for one of them takes six times as long."""


class PostBatch:
    """Plain messages, without reply link and addressees, of any threads.

    `add` takes the rows of a shard in their order, `read` reads what was added, and `arrays` gives the columns of what was read.
    """

    def __init__(self) -> None:
        self._format = posts_format()
        self._rows: list[RecentRow] = []
        self._stored: list[tuple[int, int]] = []
        self._events: list[MessagesAdded] = []
        self._messages: list[PostedMessage] = []
        self.reached: dict[int, int] = {}
        """By shard, the last event that the batch has."""

    @property
    def unread(self) -> int:
        """How many events were added and not read."""
        return len(self._rows) - len(self._events)

    @property
    def messages(self) -> int:
        """How many messages the batch has; an event that was not read counts as one."""
        return len(self._messages) + self.unread

    def add(self, shard_id: int, position: int, rows: Sequence[RecentRow], stored: Sequence[tuple[int, int]]) -> None:
        """Take the events of a shard behind ``position``; ``stored`` has epoch and transaction of each."""
        self._rows += rows
        self._stored += stored
        self.reached[shard_id] = position + len(rows)

    def read(self) -> bool:
        """Read the events that were added; False when one of them is no plain message, and then the batch is of no use.

        Raises `shard_worker.journal.codec.UndecodableEvent`.
        """
        rows = self._rows[len(self._events) :]
        if {(row[_TYPE], row[_VERSION]) for row in rows} - {self._format}:
            return False
        events = decode_posts([row[_PAYLOAD] for row in rows])
        messages = [message for event in events for message in event.messages]
        if any(message.reply_message_id is not None or message.to_account_ids for message in messages):
            return False
        self._events += events
        self._messages += messages
        return True

    def arrays(self) -> tuple[bytes, ...]:
        """Ready-made arrays: of the threads id, sequence number, epoch, instant and transaction (text); then of the messages
        thread, sequence number, index, id, sender, body and instant.  Raises one of `binary_arrays.UNENCODABLE`.
        """
        threads = [row[_THREAD].bytes for row in self._rows]
        numbers = [row[_NUMBER] for row in self._rows]
        instants = [event.at for event in self._events]
        # By thread, the place of its newest event in the batch; the order is that of the first.
        newest = dict(zip(threads, range(len(threads)), strict=True))
        places = newest.values()
        counts = [len(event.messages) for event in self._events]
        one_each = set(counts) == {1}  # nearly always

        def each(values: list[T]) -> list[T]:
            return values if one_each else list(chain.from_iterable(map(repeat, values, counts)))

        return (
            binary_arrays.raw_uuids(list(newest)),
            binary_arrays.int8s([numbers[place] for place in places]),
            binary_arrays.int8s([self._stored[place][0] for place in places]),
            binary_arrays.int8s([instants[place] for place in places]),
            binary_arrays.texts([str(self._stored[place][1]) for place in places]),
            binary_arrays.raw_uuids(each(threads)),
            binary_arrays.int8s(each(numbers)),
            binary_arrays.int2s([index for count in counts for index in range(count)]),
            binary_arrays.ulids([message.message_id for message in self._messages]),
            binary_arrays.ulids(each([event.sender_id for event in self._events])),
            binary_arrays.texts([message.text for message in self._messages]),
            binary_arrays.int8s(each(instants)),
        )
