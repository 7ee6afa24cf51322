"""Every release reads events of any age; states are a cache with one version."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain import events
from shard_worker.domain.events import Event, MessagesAdded, PostedMessage, ThreadCreated, ThreadDestroyed
from shard_worker.domain.ids import AccountId, MessageId
from shard_worker.domain.thread import LiveMessage, Thread
from shard_worker.journal.codec import (
    DEFAULT_WRITE_FORMAT,
    DOWNCASTERS,
    EVENT_NAMES,
    EVENT_VERSIONS,
    FORMATS,
    STATE_VERSION,
    UPCASTERS,
    UndecodableEvent,
    decode,
    decode_state,
    decode_with,
    encode,
    encode_state,
    encoder,
    newest_format,
)
from tests.support.journal_writer import folded, whole_life

CORPUS = [
    (path.stem, number, json.loads(line))
    for path in sorted(Path(__file__).with_name("corpus").glob("*.jsonl"))
    for number, line in enumerate(path.read_text().splitlines(), 1)
]
"""One line a stored event: its row in the journal, and what it says.  A line is never changed; new ones are added."""

STATE_SHAPES = {1: "b03bc5da1247e4c2", 2: "43f76057724cde2d"}
"""Shapes of `Thread` and `LiveMessage` at each `STATE_VERSION`.  A changed shape: raise the version, add a line."""

ANN = AccountId("01JAAAAAAAAAAAAAAAAAAAAAAA")


def shape_of(*types: type[msgspec.Struct]) -> str:
    """A fingerprint of fields, their order, types and defaults, as the bytes of a snapshot depend on them.

    The same under every Python; by way of JSON Schema, whose descriptions are docstrings and do not count.
    """
    names = [[(field.name, repr(field.default)) for field in msgspec.structs.fields(type_)] for type_ in types]
    schemas, components = msgspec.json.schema_components(types)
    text = json.dumps([names, list(schemas), without_descriptions(components)], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def without_descriptions(value: Any) -> Any:
    """A JSON value without what is only there for readers."""
    if isinstance(value, dict):
        return {key: without_descriptions(inner) for key, inner in value.items() if key != "description"}
    return [without_descriptions(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("row", "expected"), [(row["row"], row["event"]) for _, _, row in CORPUS],
                         ids=[f"{name}-{number}" for name, number, _ in CORPUS])  # fmt: skip
def test_every_event_ever_stored_is_read(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """With exactly the values that it was stored with."""
    event = decode(row["event_type"], row["event_version"], row["payload"].encode())
    assert {"type": type(event).__name__, **json.loads(msgspec.json.encode(event))} == expected


def test_the_corpus_has_every_type_and_version() -> None:
    """A new one comes with its lines."""
    covered = {(row["row"]["event_type"], row["row"]["event_version"]) for _, _, row in CORPUS}
    assert covered == {(number, v) for number, last in EVENT_VERSIONS.items() for v in range(1, last + 1)}


def test_the_newest_lines_are_what_is_written_today() -> None:
    """Byte for byte: what this release stores is in the corpus as it stores it."""
    for _, _, line in CORPUS:
        row = line["row"]
        if row["event_version"] == EVENT_VERSIONS[row["event_type"]] and line.get("asWritten", True):
            event = decode(row["event_type"], row["event_version"], row["payload"].encode())
            assert encode(event) == (row["event_type"], row["event_version"], row["payload"].encode())


def test_numbers_and_names_never_change() -> None:
    """Rows and clients know them."""
    assert EVENT_NAMES == {
        1: "ThreadCreated",
        2: "ThreadDestroyed",
        3: "AdministratorIdsJoined",
        4: "AdministratorIdsLeft",
        5: "MemberIdsJoined",
        6: "MemberIdsLeft",
        7: "MessagesAdded",
        8: "MessagesRemoved",
    }
    assert {event.__name__ for event in get_args(events.Event)} == set(EVENT_NAMES.values())


def test_every_older_version_has_an_upcaster() -> None:
    """And no other has."""
    assert set(UPCASTERS) == {(number, v) for number, last in EVENT_VERSIONS.items() for v in range(1, last)}


def test_every_format_has_a_version_of_every_type_and_none_is_left_out() -> None:
    """Numbered from 1; each goes on from the one before; the newest has the newest versions."""
    assert sorted(FORMATS) == list(range(1, newest_format() + 1))
    assert FORMATS[newest_format()] == EVENT_VERSIONS
    for number in range(2, newest_format() + 1):
        before, after = FORMATS[number - 1], FORMATS[number]
        assert before.keys() <= after.keys()
        assert all(after[each] - version in (0, 1) for each, version in before.items())


def test_what_may_have_to_be_written_has_a_downcaster() -> None:
    """From the newest version down to that of the format that is written by default."""
    written = FORMATS[DEFAULT_WRITE_FORMAT]
    assert DEFAULT_WRITE_FORMAT in (newest_format(), newest_format() - 1)
    assert set(DOWNCASTERS) == {
        (number, version)
        for number, last in EVENT_VERSIONS.items()
        for version in range(written.get(number, last) + 1, last + 1)
    }


def test_an_unknown_format_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match=f"journal format 99 is unknown; this release writes 1 to {newest_format()}"):
        encoder(99)


def test_an_older_format_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invented format that has a version 2 of one type; the others stay as they are."""
    added = MessagesAdded(sender_id=ANN, messages=(PostedMessage(MessageId(ANN), "a"),), at=1, create_at=1)
    number, _, payload = encode(added)
    monkeypatch.setitem(EVENT_VERSIONS, number, 2)
    monkeypatch.setitem(FORMATS, newest_format() + 1, dict(EVENT_VERSIONS))
    monkeypatch.setitem(DOWNCASTERS, (number, 2), lambda value: {"posts": value["messages"]})
    assert encoder(newest_format())(added) == (number, 2, payload)
    written = encoder(newest_format() - 1)(added)
    assert written[:2] == (number, 1)
    assert list(json.loads(written[2])) == ["posts"]
    destroyed = ThreadDestroyed(destroyer_id=ANN, at=1, create_at=1)
    assert encoder(newest_format() - 1)(destroyed) == encode(destroyed)


@pytest.mark.parametrize("event", whole_life(), ids=lambda event: type(event).__name__)
def test_what_is_written_is_read(event: Event) -> None:
    """One of each type."""
    assert decode(*encode(event)) == event


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_every_text_survives(text: str) -> None:
    """Whatever a client may send."""
    event = MessagesAdded(sender_id=ANN, messages=(PostedMessage(MessageId(ANN), text),), at=1, create_at=1)
    assert decode(*encode(event)) == event


def older(value: dict[str, Any]) -> dict[str, Any]:
    """From an invented version 1, in which a thread had a name, to version 2, in which it has a label."""
    value["label"] = value.pop("name")
    return value


def newer(value: dict[str, Any]) -> dict[str, Any]:
    """From version 2 to version 3, in which the label is the title and remarks are new."""
    return {**value, "title": value["label"], "remarks": "none then"}


INVENTED = {1: 3}
STEPS = {(1, 1): older, (1, 2): newer}
REST = b'"creatorId":"A","parentThreadId":null,"administratorIds":["A"],"memberIds":[],"at":5,"createAt":4}'


@pytest.mark.parametrize(
    ("version", "payload"),
    [
        (1, b'{"name":"n",' + REST),
        (2, b'{"label":"n",' + REST),
        (3, b'{"title":"n","remarks":"none then",' + REST),
    ],
    ids=["two-steps", "one-step", "as-written"],
)
def test_an_older_version_is_raised_step_by_step(version: int, payload: bytes) -> None:
    """To the very event that the written version gives."""
    assert decode_with(1, version, payload, INVENTED, STEPS) == ThreadCreated(
        creator_id=AccountId("A"),
        title="n",
        remarks="none then",
        parent_thread_id=None,
        administrator_ids=(AccountId("A"),),
        member_ids=(),
        at=5,
        create_at=4,
    )


@pytest.mark.parametrize(
    ("version", "payload", "upcasters"),
    [
        (1, b'{"label":"n",' + REST, STEPS),
        (1, b'{"name":"n",' + REST, {(1, 1): older}),
        (2, b'{"label":5,' + REST, STEPS),
        (2, b"[]", STEPS),
        (2, b"{", STEPS),
        (2, b'{"label":"\xff",' + REST, STEPS),
        (2, b'{"label":"n",' + REST, {(1, 2): lambda value: value["label"].nowhere}),
    ],
    ids=["field-missing", "step-missing", "wrong-type", "no-object", "cut-off", "no-utf8", "attribute"],
)
def test_what_cannot_be_raised_is_undecodable(version: int, payload: bytes, upcasters: Any) -> None:
    """Whatever goes wrong in a step, it is this event's fault and says so."""
    with pytest.raises(UndecodableEvent, match=f"ThreadCreated version {version}"):
        decode_with(1, version, payload, INVENTED, upcasters)


@pytest.mark.parametrize(("event_type", "version"), [(0, 1), (9, 1), (-1, 1), (99, 1), (2, 0), (2, 2), (2, -1)])
def test_an_unknown_type_or_version_is_undecodable(event_type: int, version: int) -> None:
    """As in a rollback to a release that is older than the journal."""
    with pytest.raises(UndecodableEvent, match="unknown"):
        decode(event_type, version, b'{"destroyerId":"A","at":1,"createAt":1}')


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"destroyerId":"\xff","at":1,"createAt":1}',
        b'{"destroyerId":1,"at":1,"createAt":1}',
        b'{"destroyerId":null,"at":1,"createAt":1}',
        b'{"destroyerId":"A","at":1.5,"createAt":1}',
        b'{"destroyerId":"A","createAt":1}',
        b'{"destroyerId":"A","at":1,"createAt":1} {}',
        b'{"deep":' + b"[" * 100_000,
    ],
    ids=["empty", "cut-off", "null", "list", "no-fields", "text", "bytes", "no-utf8", "number", "no-one", "fraction",
         "field-missing", "two", "deep"],
)  # fmt: skip
def test_garbage_is_undecodable(payload: bytes) -> None:
    """One error for all of it, so that it poisons one thread and is named."""
    with pytest.raises(UndecodableEvent, match="ThreadDestroyed version 1"):
        decode(2, 1, payload)


@given(st.binary(max_size=60), st.sampled_from(sorted(EVENT_NAMES)))
def test_any_bytes_are_an_event_or_undecodable(payload: bytes, event_type: int) -> None:
    """Never another error."""
    try:
        decode(event_type, 1, payload)
    except UndecodableEvent:
        return
    pytest.fail("random bytes were read as an event")


def test_fields_of_a_later_release_are_ignored() -> None:
    """A rollback reads what an additive change wrote under the same version."""
    assert decode(2, 1, b'{"destroyerId":"A","at":1,"createAt":2,"why":{"x":[1]}}') == ThreadDestroyed(
        destroyer_id=AccountId("A"), at=1, create_at=2
    )


def test_a_state_survives_its_bytes() -> None:
    """The order of people and messages too."""
    for length in range(1, 9):
        state = folded(whole_life()[:length])
        again = decode_state(encode_state(state))
        assert again == state
        assert encode_state(again) == encode_state(state)


@pytest.mark.parametrize("raw", [b"", b"\xc0", b"\x90", b"\xff" * 8, b"nonsense"])
def test_bytes_that_are_no_state_are_refused(raw: bytes) -> None:
    """So that the loader throws them away."""
    with pytest.raises(msgspec.DecodeError):
        decode_state(raw)


def test_the_shape_of_a_state_changes_only_with_its_version() -> None:
    """Else a worker would read an older release's snapshots as something that they are not."""
    assert STATE_SHAPES[STATE_VERSION] == shape_of(Thread, LiveMessage)
    assert max(STATE_SHAPES) == STATE_VERSION
