"""The parser of streams: the same frames however the bytes are cut and the lines end."""

import json

from hypothesis import given
from hypothesis import strategies as st
from threadcluster_client.sse import Frame, FrameParser

from shard_worker.contract import LiveEvent
from shard_worker.domain.events import MessagesAdded, PostedMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.journal.codec import encode
from shard_worker.streams.framing import HEART_BEAT, event_frame, opening_frame, retry_frame

T = ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ")
A = AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY")
M = MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX")

NASTY = st.text(alphabet="\u0085\u2028\u2029\x0b\x0c\x1c\0é😀 :ab", max_size=8)
"""Characters at which Python's own `splitlines` cuts, and which end no line of a stream."""
LINES = st.lists(
    st.one_of(
        st.just(""),
        st.builds("{}:{}".format, st.sampled_from(["id", "event", "data", "data", "retry", "", "other"]), NASTY),
        st.sampled_from(["data", "data:", "data: a", "retry: 250", "retry: x", ": heart-beat"]),
    )
)


def feed(raw: bytes, cuts: list[int]) -> tuple[list[Frame], str, int | None]:
    """The frames and the parser's end, of bytes in pieces of these sizes."""
    parser, frames, at = FrameParser("before"), [], 0
    for cut in [*cuts, len(raw)]:
        frames += parser.feed(raw[at : at + cut])
        at += cut
    return frames, parser.last_id, parser.retry_ms


def by_the_standard(lines: list[str]) -> tuple[list[Frame], str, int | None]:
    """The frames of whole lines, after the wording of the HTML standard."""
    frames: list[Frame] = []
    last_id, retry = "before", None
    kind, data, positioned = "", "", False
    for line in lines:
        if line == "":
            if data or positioned:
                frames.append(Frame(last_id, kind or "message", data[:-1] if data else None))
            kind, data, positioned = "", "", False
            continue
        name, value = line.split(":", 1) if ":" in line else (line, "")
        value = value[1:] if value[:1] == " " else value
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id, positioned = value, True
        elif name == "retry" and value and all(each in "0123456789" for each in value):
            retry = int(value)
    return frames, last_id, retry


@given(LINES, st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=1), st.lists(st.integers(0, 7)), st.booleans())
def test_frames_are_those_of_the_standard(lines: list[str], ends: list[str], cuts: list[int], marked: bool) -> None:
    """With any mixture of ends, in any pieces, with a byte order mark and without."""
    raw = ""
    written: list[str] = []
    for place, line in enumerate(lines):
        end = ends[place % len(ends)]
        if raw.endswith("\r") and line == "" and end == "\n":
            end = "\r"  # a return and a line feed are one end
        raw += line + end
        written.append(line)
    encoded = b"\xef\xbb\xbf" * marked + raw.encode()
    assert feed(encoded, cuts) == by_the_standard(written)


@given(st.binary(), st.lists(st.integers(0, 5)))
def test_any_bytes_are_parsed_the_same_in_any_pieces(raw: bytes, cuts: list[int]) -> None:
    """And none is an error."""
    assert feed(raw, cuts) == feed(raw, [])


@given(st.text() | NASTY, st.integers(1, 9), st.lists(st.integers(0, 40)))
def test_any_text_arrives_as_it_was_posted(text: str, number: int, cuts: list[int]) -> None:
    """From the server's own frames."""
    event = LiveEvent(number, 3, *encode(MessagesAdded(A, (PostedMessage(M, text),), 1, 2)))
    raw = opening_frame(0, None) + HEART_BEAT + event_frame(T, event) + retry_frame(250)
    (opening, frame), last_id, retry = feed(raw, cuts)
    assert opening == Frame("0", "message", None)
    assert (frame.id, frame.type, last_id, retry) == (f"{number}.3", "MessagesAdded", f"{number}.3", 250)
    assert frame.data is not None
    assert json.loads(frame.data)["messages"][0]["text"] == text


def test_a_frame_does_not_wait_for_the_byte_after_its_end() -> None:
    """Lines may end at a return: a line feed that comes later belongs to it."""
    parser = FrameParser()
    assert parser.feed(b"data: a\r\r") == [Frame("", "message", "a")]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: b\r\n\r") == [Frame("", "message", "b")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: c\n\n") == [Frame("", "message", "c")]


def test_a_line_of_many_pieces_is_read_whole() -> None:
    """Of any length: there is no limit below the largest event."""
    parser = FrameParser()
    for _ in range(4_000):
        assert parser.feed(b"x" * 1_000 if parser.retry_ms else b"retry: 1\ndata:" + b"x" * 1_000) == []
    (frame,) = parser.feed(b"\n\n")
    assert frame.data == "x" * 4_000_000
