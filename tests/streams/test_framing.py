"""Positions and frames: what leaves is what a client's parser reads, whatever the text."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_worker.contract import LiveEvent
from shard_worker.domain.events import MessagesAdded, PostedMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.journal.codec import UndecodableEvent, encode
from shard_worker.streams.framing import (
    HEART_BEAT,
    account_reset_frame,
    error_frame,
    event_frame,
    opening_frame,
    position_frame,
    reset_frame,
    retry_frame,
    thread_error_frame,
)
from shard_worker.streams.position import GREATEST, ThreadPosition, position_text, read_position
from tests.support.load.follower import EventParser

T = ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ")
A = AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY")
M = MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX")


def live(text: str | None, number: int = 7, epoch: int = 3) -> LiveEvent:
    """A message as the journal has it."""
    return LiveEvent(number, epoch, *encode(MessagesAdded(A, (PostedMessage(M, text),), 1, 2)))


@settings(max_examples=40)
@given(st.text() | st.text(alphabet="\u0085\u2028\u2029\r\n\0é😀 :"), st.integers(1, 9), st.lists(st.integers(1, 9)))
def test_any_text_arrives_as_it_was_posted(text: str, number: int, cuts: list[int]) -> None:
    """On one line, in whatever pieces the bytes arrive."""
    raw = event_frame(T, live(text, number))
    assert raw.count(b"\n") == 4
    assert not any(end in raw for end in (b"\r", "\u0085".encode(), "\u2028".encode(), "\u2029".encode()))
    parser, events, at = EventParser(), [], 0
    for cut in [*cuts, len(raw)]:
        events += parser.feed(raw[at : at + cut])
        at += cut
    (event,) = events
    assert (event.id, event.type) == (f"{number}.3", "MessagesAdded")
    assert event.json == {
        "threadId": T,
        "sequenceNr": number,
        "epoch": 3,
        "senderId": A,
        "messages": [{"messageId": M, "text": text, "replyMessageId": None, "toAccountIds": []}],
        "at": 1,
        "createAt": 2,
    }


def test_a_payload_that_was_written_otherwise_is_framed_all_the_same() -> None:
    """As one with line ends between its tokens."""
    event = live("a")
    pretty = json.dumps(json.loads(event.payload), indent=2).encode()
    assert event_frame(T, msgspec.structs.replace(event, payload=pretty)) == event_frame(T, event)


def test_a_payload_of_the_newest_version_is_not_decoded() -> None:
    """Events are framed as they are in the journal: one that is long takes no time."""
    event = msgspec.structs.replace(live("a"), payload=b'{"any": [1, 2]}')
    assert b'"epoch":3,"any": [1, 2]}\n\n' in event_frame(T, event)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["line-feed", "return", "both"])
def test_an_end_of_a_line_between_tokens_ends_no_line_of_a_frame(end: str) -> None:
    """Whichever it is."""
    assert error_frame(f'{{"a":{end}"b"}}'.encode()) == b'event: error\ndata: {"a":"b"}\n\n'
    event = live("a")
    broken = event.payload.replace(b",", f",{end}".encode())
    assert event_frame(T, msgspec.structs.replace(event, payload=broken)) == event_frame(T, event)


@pytest.mark.parametrize(
    "changed", [{"event_type": 99}, {"event_version": 2}, {"payload": b"[]"}, {"payload": b'\n{"x":'}], ids=str
)
def test_an_event_that_cannot_be_read_is_refused(changed: dict[str, object]) -> None:
    """By its type, its version or its payload."""
    with pytest.raises(UndecodableEvent):
        event_frame(T, msgspec.structs.replace(live("a"), **changed))


def test_frames_without_an_event() -> None:
    """Opening, reset, error, retry and heart-beat."""
    assert opening_frame(5, 2) == b"id: 5.2\n\n"
    assert opening_frame(0, None) == b"id: 0\n\n"
    assert reset_frame(T, 5, 2) == (
        b'id: 5.2\nevent: reset\ndata: {"threadId":"01HZZZZZZZZZZZZZZZZZZZZZZZ","sequenceNr":5,"epoch":2}\n\n'
    )
    assert error_frame('{"a":\r\n"\u2028"}'.encode()) == b'event: error\ndata: {"a":"\\u2028"}\n\n'
    assert retry_frame(1234) == b"retry: 1234\n\n"
    parser = EventParser()
    assert parser.feed(HEART_BEAT) == []
    assert parser.comments == 1
    assert position_frame(b"p") == b"id: p\n\n"
    assert account_reset_frame(b"p") == b'id: p\nevent: reset\ndata: {"threadId":null}\n\n'
    poisoned = thread_error_frame(ThreadId("T"), b'{"code":"thread-poisoned"}')
    assert poisoned == b'event: error\ndata: {"threadId":"T","code":"thread-poisoned"}\n\n'


@settings(max_examples=30)
@given(st.integers(1, GREATEST), st.integers(1, GREATEST))
def test_a_position_is_read_as_it_was_written(sequence_nr: int, epoch: int) -> None:
    """With and without its epoch."""
    assert read_position(position_text(sequence_nr, epoch)) == (sequence_nr, epoch)
    assert read_position(position_text(sequence_nr, None)) == (sequence_nr, None)
    assert position_text(sequence_nr, 0) == str(sequence_nr)


def test_the_greatest_numbers_are_read() -> None:
    """The journal has them as signed numbers of 64 bits."""
    assert read_position(f"{GREATEST}.{GREATEST}") == (GREATEST, GREATEST)
    assert read_position(str(GREATEST)) == (GREATEST, None)


@pytest.mark.parametrize("text", ["0", "0.0", "0.7", f"0.{GREATEST}"])
def test_the_beginning_has_any_epoch(text: str) -> None:
    """For there is no event."""
    assert read_position(text) == ThreadPosition(0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "1.",
        ".1",
        "01",
        "1.01",
        "1.1.1",
        " 1",
        "1\n",
        "+1",
        "1e3",
        str(GREATEST + 1),
        f"1.{GREATEST + 1}",
        "٣",
    ],
)
def test_anything_else_is_no_position(text: str) -> None:
    """Nothing is guessed."""
    assert read_position(text) is None
