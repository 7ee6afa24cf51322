"""Reading the texts of single messages: slices of events, not events.

A thread's state keeps where each live message is in its event, in bytes of the encoding of this release, so a text is
one ``substring`` of a payload.  Measured on 60 events of 1 MB, a message of each: 0.15 ms an event, against 6–8 ms for a
path of ``jsonb``, which parses the whole event in Postgres, and 4–5 ms for fetching the event, whose decoding then
holds the loop for 2 ms more.  A page of a thread whose live messages are spread over 700 such events would fetch 700 MB.

The place is a hint.  An event that another release wrote, or in which a text was redacted, may be laid out otherwise:
a slice of an event of another version, or one that is not the message that it should be, is not believed, and its event
is read whole, few at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.events import MessagesAdded, PostedMessage, encoded_size
from shard_worker.domain.ids import MessageId, ShardId
from shard_worker.journal.codec import EVENT_NAMES, EVENT_VERSIONS, UndecodableEvent, decode

ADDED: Final = next(number for number, name in EVENT_NAMES.items() if name == MessagesAdded.__name__)
"""The type number of the events that hold messages."""
_EVENTS_BYTES: Final = 1 << 20
"""Maximum bytes of whole events that are fetched at once, but for the last: one event of `messages/add`."""

# LATERAL, so that the payload's slice is taken where the row is found.
_SLICES_SQL: Final = """
SELECT j.part FROM unnest($3::bigint[], $4::int[], $5::int[]) WITH ORDINALITY AS w (seq_nr, start, size, ord)
  LEFT JOIN LATERAL (
       SELECT substring(payload FROM w.start + 1 FOR w.size) AS part FROM journal
        WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = w.seq_nr AND event_type = $6 AND event_version = $7) j ON true
 ORDER BY w.ord
"""
_EVENTS_SQL: Final = """
SELECT seq_nr, event_type, event_version, payload
  FROM (SELECT j.*, w.ord, sum(octet_length(payload)) OVER (ORDER BY w.ord) - octet_length(payload) AS before
          FROM unnest($3::bigint[]) WITH ORDINALITY AS w (nr, ord)
          JOIN journal j ON shard_id = $1 AND thread_id = $2 AND seq_nr = w.nr) e
 WHERE before < $4 ORDER BY ord
"""
_decode: Final = msgspec.json.Decoder(list[PostedMessage]).decode


class MessagePlace(NamedTuple):
    """Where a message is: its event, its position there, and its bytes in the event; a size of 0 means unknown."""

    message_id: MessageId
    sequence_nr: int
    position: int
    offset: int
    size: int


class MessageReader:
    """Reads messages as they were posted, on the primary."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self.whole_events = 0
        """How many events were read whole, since a place was unknown or wrong."""

    async def read(
        self,
        shard_id: ShardId,
        thread_uuid: UUID,
        places: Sequence[MessagePlace],
        *,
        most_bytes: int,
        wanted: Callable[[], bool],
    ) -> list[PostedMessage]:
        """The messages at these places, the most wanted first.

        Where sizes are unknown the answer may be shorter: it ends once its messages have ``most_bytes``, with at least
        one message, or when ``wanted`` says that the request is over.  Raises `UndecodableEvent` for an event that is
        missing or cannot be read, and what asyncpg raises when the link fails.
        """
        sliced = [place for place in places if place.size]
        found: dict[MessageId, PostedMessage] = {}
        if sliced:
            parts = await self._pool.run(partial(_read_slices, shard_id, thread_uuid, sliced))
            for place, part in zip(sliced, parts, strict=True):
                posted = message_of(place, part)
                if posted is not None:
                    found[place.message_id] = posted
        messages: list[PostedMessage] = []
        events: dict[int, MessagesAdded] = {}
        size = 0
        for at, place in enumerate(places):
            message = found.get(place.message_id)
            if message is None:
                if place.sequence_nr not in events:
                    if not wanted():
                        break
                    wanted_nrs = dict.fromkeys(p.sequence_nr for p in places[at:] if p.message_id not in found)
                    # A page around a message goes on in two directions: the event that is left in each is still wanted.
                    events = {seq_nr: event for seq_nr, event in events.items() if seq_nr in wanted_nrs}
                    missing = [seq_nr for seq_nr in wanted_nrs if seq_nr not in events]
                    events |= await self._events(shard_id, thread_uuid, missing)
                message = _message_in(events, place)
            size += encoded_size(message)
            if messages and size > most_bytes:
                break
            messages.append(message)
        return messages

    async def _events(self, shard_id: ShardId, thread_uuid: UUID, seq_nrs: Sequence[int]) -> dict[int, MessagesAdded]:
        """The first of these events, as many as stay near `_EVENTS_BYTES`."""
        rows = await self._pool.run(
            lambda connection: connection.fetch(_EVENTS_SQL, shard_id, thread_uuid, list(seq_nrs), _EVENTS_BYTES)
        )
        self.whole_events += len(rows)
        events: dict[int, MessagesAdded] = {}
        for row in rows:
            event = decode(row["event_type"], row["event_version"], row["payload"])
            if isinstance(event, MessagesAdded):
                events[row["seq_nr"]] = event
        return events


async def _read_slices(
    shard_id: ShardId, thread_uuid: UUID, places: Sequence[MessagePlace], connection: Session
) -> list[bytes | None]:
    rows: list[asyncpg.Record] = await connection.fetch(
        _SLICES_SQL,
        shard_id,
        thread_uuid,
        [place.sequence_nr for place in places],
        [place.offset for place in places],
        [place.size for place in places],
        ADDED,
        EVENT_VERSIONS[ADDED],
    )
    return [row["part"] for row in rows]


def message_of(place: MessagePlace, part: bytes | None) -> PostedMessage | None:
    """The message in a slice; None when it is not the one that it should be."""
    found = messages_of([place.message_id], [part])
    return None if found is None else found[0]


def messages_of(message_ids: list[MessageId], parts: Sequence[bytes | None]) -> list[PostedMessage] | None:
    """The messages in these slices, read as one document; None when these are not they."""
    if None in parts:
        return None
    try:
        found = _decode(b"[" + b",".join(parts) + b"]")  # type: ignore[arg-type]  # none is None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if [message.message_id for message in found] == message_ids else None


def _message_in(events: dict[int, MessagesAdded], place: MessagePlace) -> PostedMessage:
    event = events.get(place.sequence_nr)
    if event is None:
        raise UndecodableEvent(f"event {place.sequence_nr}, which posted a live message, is missing")
    if place.position >= len(event.messages) or event.messages[place.position].message_id != place.message_id:
        raise UndecodableEvent(f"event {place.sequence_nr} does not hold message {place.message_id}")
    return event.messages[place.position]
