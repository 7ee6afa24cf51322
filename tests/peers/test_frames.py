"""The frames themselves: whatever the network does to the bytes, the same frames come out."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.contract import (
    AccountIdPage,
    CommandRequest,
    Done,
    Existence,
    ExistsThread,
    Followed,
    FollowThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    LiveEvent,
    LocateMessage,
    MessageLocation,
    MessagePage,
    MessageView,
    Moved,
    OwnerAnswer,
    ReadAccess,
    ReadThread,
    Request,
    ThreadAccess,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.commands import AddMessages, CreateThread, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.message_window import Side
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.peers import frames
from shard_worker.peers.frames import BadFrame, Envelope, FrameReader

T, A, M = (
    ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"),
    AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY"),
    MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"),
)
REQUESTS: list[Request] = [
    CommandRequest(CreateThread(T, A, "t", None, T, True, (A,), (), 5), os.urandom(16)),
    CommandRequest(AddMessages(T, A, (NewMessage(M, "hé", M, (A,)),), 5), os.urandom(16), b"k" * 16, b"b" * 16),
    ReadThread(T, A, 7),
    ExistsThread(T, A),
    GetAdministratorIds(T, A, 10, 0, A),
    GetMemberIds(T, A, 10, 3),
    GetMessages(T, A, 10, 0, (4, 2)),
    GetMessageWindow(T, A, 10, Side.AROUND, M, None, 7),
    GetMessageWindow(T, A, 10, Side.BEFORE, None, (4, 2)),
    LocateMessage(T, A, M),
    ReadAccess(T, A),
    FollowThread(T, 2**40, 7),
]
ANSWERS: list[OwnerAnswer] = [
    Done(3, (M,)),
    Done(3, (M,), replayed=True),
    Done(3, (M,), epoch=9),
    ThreadAccess(True, False, False, 3, 9),
    Followed(7, (LiveEvent(3, 9, 7, 1, b"{}"),)),
    Followed(7, fresh=True),
    ThreadView(T, A, None, "t", None, 1, 2, 3),
    Existence(False),
    MessageLocation((4, 2), 9),
    MessageLocation(None, 9),
    AccountIdPage((A,), True),
    MessagePage((MessageView(M, A, None, M, (A,), 1, 2, 3, 0),), False),
    Refusal(RefusalCode.NOT_SENDER, "no"),
    Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "?", 0.5),
    Moved("w1", 9),
    Moved(None, 0),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_every_request_survives_the_wire(request_: Request) -> None:
    """With its budget, and what its sender knew."""
    raw = frames.request_frame(7, Envelope(request_, 1.5, 143, 2**40, 2))
    [(kind, stream, body)] = FrameReader().feed(raw)
    assert (kind, stream) == (frames.REQUEST, 7)
    assert frames.read_request(body) == Envelope(request_, 1.5, 143, 2**40, 2)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_every_answer_survives_the_wire(answer: OwnerAnswer) -> None:
    """As it was given."""
    [(kind, stream, body)] = FrameReader().feed(frames.answer_frame(9, answer, command=False))
    assert (kind, stream, frames.read_answer(body)) == (frames.ANSWER, 9, answer)


@given(st.lists(st.binary(max_size=50), max_size=10), st.lists(st.integers(1, 40), max_size=60))
def test_any_chunking_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    """Bytes may arrive one by one or all at once."""
    raw = b"".join(frames.frame(frames.PING, n, body) for n, body in enumerate(bodies))
    reader, found = FrameReader(), []
    at = 0
    for cut in [*cuts, len(raw)]:
        found += reader.feed(raw[at : at + cut])
        at += cut
    assert found == [(frames.PING, n, body) for n, body in enumerate(bodies)]


@pytest.mark.parametrize(
    "raw", [b"\xff" * 9, frames.frame(9, 1), b"\x00\x00\x00\x00\x00" * 2], ids=["huge", "unknown-kind", "zeros"]
)
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    """Before a buffer grows for it."""
    with pytest.raises(BadFrame):
        FrameReader().feed(raw)


@given(st.binary(max_size=60))
def test_garbage_in_a_body_is_refused(body: bytes) -> None:
    """As a bad frame, never as anything else."""
    for read in (frames.read_request, frames.read_answer):
        try:
            read(body)
        except BadFrame:
            continue


_HEAD = b"\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x04\x01"
GOLDEN: list[tuple[bytes, bytes]] = [
    (
        frames.request_frame(7, Envelope(FollowThread(T, 5, 9), 0.02, 3, 4, 1)),
        b"\x00\x00\x00=\x01\x00\x00\x00\x07" + _HEAD + b"\x94\xadfollow-thread\xba" + T.encode() + b"\x05\t",
    ),
    (
        frames.request_frame(7, Envelope(ReadAccess(T, A), 0.02, 3, 4, 1)),
        b"\x00\x00\x00T\x01\x00\x00\x00\x07" + _HEAD + b"\x93\xabread-access\xba%b\xba%b" % (T.encode(), A.encode()),
    ),
    (
        frames.answer_frame(7, Followed(9, (LiveEvent(6, 2, 7, 1, b"{}"),)), command=False),
        b"\x00\x00\x00\x16\x02\x00\x00\x00\x07\x94\xa8followed\t\x91\x95\x06\x02\x07\x01\xc4\x02{}\xc2",
    ),
    (
        frames.answer_frame(7, ThreadAccess(True, False, False, 6, 2), command=False),
        b"\x00\x00\x00\r\x02\x00\x00\x00\x07\x96\xa6access\xc3\xc2\xc2\x06\x02",
    ),
    (
        frames.hello_frame(frames.Hello(2, "i", 3, "g", frames.STREAMS)),
        b"\x00\x00\x00\x08\x06\x00\x00\x00\x00\x95\x02\xa1i\x03\xa1g\x01",
    ),
    (frames.frame(frames.CANCEL, 7), b"\x00\x00\x00\x00\x08\x00\x00\x00\x07"),
]


@pytest.mark.parametrize(("made", "wire"), GOLDEN)
def test_the_messages_of_streams_keep_their_form(made: bytes, wire: bytes) -> None:
    """A worker of this release talks to one of the next."""
    assert made == wire


def test_a_hello_of_an_earlier_release_has_no_features() -> None:
    """And what a later one adds is passed over."""
    assert frames.read_hello(b"\x94\x02\xa1i\x03\xa1g").features == 0
    assert frames.read_hello(b"\x96\x02\xa1i\x03\xa1g\x01\x07").features == frames.STREAMS
