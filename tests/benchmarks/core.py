"""Benchmarks without a server: the rate of a replay, and the size of a resident thread.

Both run in this process, a few tenths of a second.  Memory is what `tracemalloc` sees allocated for a state of 10
members and 50 live messages, beside the same facts in nested dicts, the way a quick implementation would keep them.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable

from msgspec import Struct

from shard_worker.domain.events import Event, MessagesAdded, PostedMessage, ThreadCreated
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId, MessageId, ulid_text
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import decode, encode

_MEMBERS = 10
_MESSAGES = 50
_WEIGHED = 200
_TEXT = "a message of a usual length, as people send them"


class Core(Struct, frozen=True):
    """Replayed events a second (decode and evolve), and bytes a resident thread."""

    replay_events_s: float
    thread_bytes: float
    nested_dict_bytes: float


class _Ids:
    """Distinct ids: sharing them would make either form look light."""

    def __init__(self) -> None:
        self._last = 1 << 100

    def next(self) -> str:
        self._last += 0x1234567
        return ulid_text(self._last.to_bytes(16, "big"))


def _history(ids: _Ids) -> list[Event]:
    members = tuple(AccountId(ids.next()) for _ in range(_MEMBERS))
    events: list[Event] = [ThreadCreated(members[0], "title", None, None, members[:1], members, 1, 1)]
    for number in range(_MESSAGES):
        message = PostedMessage(MessageId(ids.next()), _TEXT)
        events.append(MessagesAdded(members[number % _MEMBERS], (message,), number, number))
    return events


def _stored(ids: _Ids) -> list[tuple[int, int, bytes]]:
    return [encode(event) for event in _history(ids)]


def _replay(stored: list[tuple[int, int, bytes]]) -> Thread:
    state: Thread | None = None
    for seq_nr, row in enumerate(stored, start=1):
        state = evolve(state, decode(*row), seq_nr)
    assert state is not None, "a history has a first event"
    return state


def _nested(stored: list[tuple[int, int, bytes]]) -> dict[str, object]:
    """The same facts without the texts: dicts of dicts, a fresh string for each id as a JSON decoder gives."""
    state = _replay(stored)
    fresh = str.encode
    return {
        "creatorId": fresh(state.creator_id).decode(),
        "title": state.title,
        "sequenceNr": state.sequence_nr,
        "administrators": {fresh(each).decode(): True for each in state.administrators},
        "members": {fresh(each).decode(): True for each in state.members},
        "messages": {
            fresh(message_id).decode(): {
                "senderId": fresh(message.sender_id).decode(),
                "replyMessageId": None,
                "sequenceNr": message.sequence_nr,
                "index": message.index,
                "createdAt": message.created_at,
                "content": message.content,
            }
            for message_id, message in state.messages.items()
        },
    }


def _weigh(make: Callable[[list[tuple[int, int, bytes]]], object]) -> float:
    """Bytes that one result of ``make`` keeps allocated."""
    ids = _Ids()
    histories = [_stored(ids) for _ in range(_WEIGHED)]
    gc.collect()
    tracemalloc.start()
    try:
        kept = [make(history) for history in histories]
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()


def measure_core(seconds: float = 0.5) -> Core:
    """Measure both."""
    ids = _Ids()
    histories = [_stored(ids) for _ in range(100)]
    events, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for history in histories:
            _replay(history)
            events += len(history)
    return Core(events / took, _weigh(_replay), _weigh(_nested))
