"""How events and states become bytes, and how bytes of any age become events again.

An event is stored as its type number, its version and a JSON payload with camelCase names.  Numbers and names never
change; a changed shape is a new version with an upcaster from the one before.  A *journal format* is a number for a set
of versions, one of each event type.  A release reads every format up to its newest, and writes the one that the setting
``write_format`` names: the newest only one release later, so that a roll-back finds no event that it cannot read.

A state (a snapshot) is a cache: it has one version, the one before is still read, and any other is thrown away.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.thread import LiveMessage, Thread

STATE_VERSION: Final = 2
"""Raised with every change of `Thread`'s shape; part of a snapshot's key."""
STATE_VERSIONS_READ: Final = (STATE_VERSION, STATE_VERSION - 1)
"""A snapshot of another version is not read."""

_TYPES: Final[dict[int, type[Event]]] = {
    1: ThreadCreated,
    2: ThreadDestroyed,
    3: AdministratorIdsJoined,
    4: AdministratorIdsLeft,
    5: MemberIdsJoined,
    6: MemberIdsLeft,
    7: MessagesAdded,
    8: MessagesRemoved,
}
EVENT_NAMES: Final[dict[int, str]] = {number: event.__name__ for number, event in _TYPES.items()}
"""The names that clients see, by type number."""
EVENT_VERSIONS: Final[dict[int, int]] = dict.fromkeys(_TYPES, 1)
"""The newest version, by type number: the shape of the event's class."""
FORMATS: Final[dict[int, dict[int, int]]] = {1: dict.fromkeys(_TYPES, 1)}
"""By journal format, the version of each event type that is written in it.  Never changed, only added to: a new version or
a new type is a new format, whose number is the one before plus 1."""
DEFAULT_WRITE_FORMAT: Final = 1
"""The newest format that the release before this one reads: what it reads may be written from this release on."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]  # a decoded JSON object has no narrower type
"""From a payload of one version to the payload of the next."""
UPCASTERS: Final[dict[tuple[int, int], Upcaster]] = {}
"""By (type number, version it reads).  Every version from 1 to the newest less one has an entry."""
DOWNCASTERS: Final[dict[tuple[int, int], Upcaster]] = {}
"""From a payload of one version to the payload of the version before, by (type number, version it reads): by them a release
writes a format older than its newest.  Every version above the one of `DEFAULT_WRITE_FORMAT` has an entry."""


class UndecodableEvent(Exception):
    """A stored event that this release cannot read: its type, version or payload is unknown to it."""


_NUMBERS: Final[dict[type[Event], int]] = {event: number for number, event in _TYPES.items()}
_DECODERS: Final[dict[int, msgspec.json.Decoder[Event]]] = {
    number: msgspec.json.Decoder(event) for number, event in _TYPES.items()
}
_POSTS_DECODER: Final = msgspec.json.Decoder(list[MessagesAdded])
_encode_json: Final = msgspec.json.Encoder().encode
_encode_state: Final = msgspec.msgpack.Encoder().encode
_decode_state: Final = msgspec.msgpack.Decoder(Thread).decode
# Version 1 did not know where a message is in its event: the fields that it lacks are the last, and have defaults.
_STATE_DECODERS: Final[dict[int, Callable[[bytes], Thread]]] = {2: _decode_state, 1: _decode_state}


def encode(event: Event) -> tuple[int, int, bytes]:
    """The type number, the version and the payload that the journal stores in the newest format."""
    number = _NUMBERS[type(event)]
    return number, EVENT_VERSIONS[number], _encode_json(event)


Encode = Callable[[Event], tuple[int, int, bytes]]
"""From an event to the type number, the version and the payload that the journal stores."""


def newest_format() -> int:
    """The newest journal format that this release reads; it reads every one before too."""
    return max(FORMATS)


def encoder(write_format: int) -> Encode:
    """`encode` in a journal format.  Raises `ValueError` for a format that this release does not know."""
    if write_format not in FORMATS:
        raise ValueError(f"journal format {write_format} is unknown; this release writes 1 to {newest_format()}")
    versions = FORMATS[write_format]
    if versions == EVENT_VERSIONS:
        return encode

    def encode_older(event: Event) -> tuple[int, int, bytes]:
        number, newest, payload = encode(event)
        written = versions[number]
        if newest == written:
            return number, newest, payload
        value = msgspec.json.decode(payload, type=dict[str, Any])
        for version in range(newest, written, -1):
            value = DOWNCASTERS[number, version](value)
        return number, written, msgspec.json.encode(value)

    return encode_older


def decode(event_type: int, event_version: int, payload: bytes) -> Event:
    """An event as this release sees it, whatever its age.  Raises `UndecodableEvent`."""
    return decode_with(event_type, event_version, payload, EVENT_VERSIONS, UPCASTERS)


def posts_format() -> tuple[int, int]:
    """Type number and version of posted messages whose payloads `decode_posts` reads: the newest version."""
    number = _NUMBERS[MessagesAdded]
    return number, EVENT_VERSIONS[number]


def decode_posts(payloads: Sequence[bytes]) -> list[MessagesAdded]:
    """The events of payloads of `posts_format`, read as one document, which takes half the time of one each.

    Raises `UndecodableEvent`, of whichever of them.
    """
    try:
        events = _POSTS_DECODER.decode(b"[" + b",".join(payloads) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableEvent(f"one of {len(payloads)} events: {error}") from error
    if len(events) != len(payloads):
        raise UndecodableEvent(f"{len(payloads)} payloads are {len(events)} events")
    return events


def decode_with(
    event_type: int,
    event_version: int,
    payload: bytes,
    versions: Mapping[int, int],
    upcasters: Mapping[tuple[int, int], Upcaster],
) -> Event:
    """`decode`, with the versions and upcasters of another release."""
    decoder = _DECODERS.get(event_type)
    if decoder is None:
        raise UndecodableEvent(f"event type {event_type} is unknown")
    name, written = EVENT_NAMES[event_type], versions[event_type]
    if not 1 <= event_version <= written:
        raise UndecodableEvent(f"{name} version {event_version} is unknown; this release reads 1 to {written}")
    try:
        if event_version == written:
            return decoder.decode(payload)
        value = msgspec.json.decode(payload, type=dict[str, Any])
        for version in range(event_version, written):
            value = upcasters[event_type, version](value)
        return msgspec.convert(value, _TYPES[event_type])
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UndecodableEvent(f"{name} version {event_version}: {error}") from error


def encode_state(state: Thread) -> bytes:
    """A snapshot's bytes, of `STATE_VERSION`."""
    return _encode_state(state)


def decode_state(raw: bytes, version: int = STATE_VERSION) -> Thread:
    """The state of a snapshot, of one of `STATE_VERSIONS_READ`, as this release has it.

    Raises `msgspec.DecodeError` or `UnicodeDecodeError` for bytes that are none.
    """
    return _STATE_DECODERS[version](raw)


def same_state(kept: Thread, folded: Thread) -> bool:
    """Whether a snapshot is what its events give; the order of joining counts, since it decides what a page shows.

    Places of messages that the snapshot does not know (it was of version 1 once) are no difference.
    """
    if encode_state(kept) == encode_state(folded):
        return True
    known = {
        message_id: live if message_id in kept.messages and kept.messages[message_id].size else _placeless(live)
        for message_id, live in folded.messages.items()
    }
    return encode_state(kept) == encode_state(msgspec.structs.replace(folded, messages=known))


def _placeless(live: LiveMessage) -> LiveMessage:
    return msgspec.structs.replace(live, offset=0, size=0)
