"""Events change a thread; impossible histories are refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain.events import (
    FIRST_MESSAGE_AT,
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    PostedMessage,
    ThreadCreated,
    ThreadDestroyed,
    encoded_size,
)
from shard_worker.domain.evolve import IllegalEvent, content_digest, creation_digest, evolve
from shard_worker.domain.thread import LiveMessage, Thread, digest
from tests.domain.harness import ANN, BOB, CID, DOT, FIRST, PARENT, SECOND, message_id, thread

CREATION = ThreadCreated(
    creator_id=ANN,
    title="t",
    remarks=None,
    parent_thread_id=PARENT,
    administrator_ids=(ANN,),
    member_ids=(BOB,),
    at=5,
    create_at=1,
)
LATER: list[Event] = [
    ThreadDestroyed(destroyer_id=ANN, at=9, create_at=1),
    AdministratorIdsJoined(adder_id=ANN, administrator_ids=(DOT,), at=9, create_at=1),
    AdministratorIdsLeft(remover_id=ANN, administrator_ids=(CID,), at=9, create_at=1),
    MemberIdsJoined(adder_id=ANN, member_ids=(DOT,), at=9, create_at=1),
    MemberIdsLeft(remover_id=ANN, member_ids=(BOB,), at=9, create_at=1),
    MessagesAdded(sender_id=BOB, messages=(PostedMessage(message_id("x"), "x"),), at=9, create_at=1),
    MessagesRemoved(remover_id=BOB, message_ids=(FIRST,), at=9, create_at=1),
]


@pytest.mark.parametrize("event", LATER, ids=lambda event: type(event).__name__)
def test_nothing_comes_before_the_creation(event: Event) -> None:
    """And the error has the number of the event."""
    with pytest.raises(IllegalEvent, match=f"event 1 .{type(event).__name__}"):
        evolve(None, event, 1)


def test_a_thread_is_created_once() -> None:
    """A second creation is a broken history."""
    with pytest.raises(IllegalEvent, match="event 4 creates"):
        evolve(thread(), CREATION, 4)


@pytest.mark.parametrize(
    "event",
    [
        AdministratorIdsLeft(remover_id=ANN, administrator_ids=(DOT,), at=9, create_at=1),
        MemberIdsLeft(remover_id=ANN, member_ids=(DOT,), at=9, create_at=1),
        MessagesRemoved(remover_id=BOB, message_ids=(message_id("x"),), at=9, create_at=1),
    ],
    ids=["administrator", "member", "message"],
)
def test_what_was_not_there_cannot_have_gone(event: Event) -> None:
    """Such a history is not folded past in silence."""
    with pytest.raises(KeyError):
        evolve(thread(), event, 4)


@pytest.mark.parametrize("event", LATER, ids=lambda event: type(event).__name__)
def test_every_event_moves_number_and_time(event: Event) -> None:
    """And the thread is changed in place."""
    state = thread()
    assert evolve(state, event, 4) is state
    assert (state.sequence_nr, state.updated_at, state.created_at) == (4, 9, 1_000)
    assert state.destroyed is isinstance(event, ThreadDestroyed)


def test_a_creation_makes_the_whole_state() -> None:
    """Field by field."""
    assert evolve(None, CREATION, 1) == Thread(
        creator_id=ANN,
        parent_thread_id=PARENT,
        title="t",
        remarks=None,
        creation=creation_digest(ANN, PARENT, "t", None, (ANN,), (BOB,)),
        created_at=5,
        updated_at=5,
        sequence_nr=1,
        administrators={ANN: None},
        members={BOB: None},
        messages={},
        removed={},
        destroyed=False,
    )


def test_messages_stand_where_they_were_posted() -> None:
    """Event and place in it, and what they reply to."""
    event = MessagesAdded(
        sender_id=CID,
        messages=(PostedMessage(message_id("x"), "x"), PostedMessage(message_id("y"), "y", FIRST, (ANN,))),
        at=9,
        create_at=1,
    )
    state = evolve(thread(), event, 4)
    assert list(state.messages) == [FIRST, SECOND, message_id("x"), message_id("y")]
    at = FIRST_MESSAGE_AT
    size = encoded_size(event.messages[0])
    assert state.messages[message_id("x")] == LiveMessage(CID, None, 4, 0, 9, content_digest("x", None, ()), at, size)
    assert state.messages[message_id("y")] == LiveMessage(
        CID, FIRST, 4, 1, 9, content_digest("y", FIRST, (ANN,)), at + size + 1, encoded_size(event.messages[1])
    )
    encoded = msgspec.json.encode(event)
    for message in event.messages:
        live = state.messages[message.message_id]
        assert msgspec.json.decode(encoded[live.offset : live.offset + live.size], type=PostedMessage) == message


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.none()
POSTED = st.builds(
    PostedMessage,
    st.integers(0, 999).map(message_id),
    TEXTS,
    st.none() | st.just(FIRST),
    st.lists(st.just(ANN), max_size=3).map(tuple),
)


@given(st.lists(POSTED, min_size=1, max_size=4, unique_by=lambda message: message.message_id))
def test_every_message_is_where_its_place_says(messages: list[PostedMessage]) -> None:
    """Whatever the texts hold: a slice of the encoded event is the encoded message, so one text is read alone."""
    event = MessagesAdded(sender_id=CID, messages=tuple(messages), at=9, create_at=1)
    state = evolve(thread(), event, 4)
    encoded = msgspec.json.encode(event)
    for message in messages:
        live = state.messages[message.message_id]
        assert encoded[live.offset : live.offset + live.size] == msgspec.json.encode(message)


def test_a_redacted_history_is_folded() -> None:
    """Title, remarks and texts may be gone."""
    state = evolve(None, ThreadCreated(ANN, None, None, None, (ANN,), (), at=1, create_at=1), 1)
    state = evolve(state, MessagesAdded(ANN, (PostedMessage(FIRST, None),), at=2, create_at=2), 2)
    assert state.title is None
    assert list(state.messages) == [FIRST]


def test_digests_tell_apart_what_joins_to_the_same_text() -> None:
    """Where parts begin counts, absence is not emptiness, and a digest fits into a signed 64-bit number."""
    parts: list[tuple[str | None, ...]] = [
        (), (None,), ("",), ("-",), ("", None), (None, ""), ("a", "bc"), ("ab", "c"), ("abc",), ("1:a",), ("\u00e9",), ("e\u0301",),
    ]  # fmt: skip
    digests = [digest(*part) for part in parts]
    assert len(set(digests)) == len(parts)
    assert all(0 <= number < 2**63 for number in digests)


def test_digests_never_change() -> None:
    """They are kept in snapshots, and compared with what this release computes."""
    assert digest("a", None, "") == 1702330625613539067
    assert content_digest("text", FIRST, (ANN, BOB)) == 6541110869938467778
    assert creation_digest(ANN, PARENT, "t", None, (BOB, ANN), ()) == 3209694492822244643
