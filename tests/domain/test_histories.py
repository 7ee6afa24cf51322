"""Whatever is commanded, in whatever order: the history folds to the state, and the state keeps its invariants."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shard_worker.domain.commands import (
    AddMessages,
    Command,
    CreateThread,
    DestroyThread,
    JoinAdministratorIds,
    JoinMemberIds,
    LeaveAdministratorIds,
    LeaveMemberIds,
    NewMessage,
    RemoveMessages,
)
from shard_worker.domain.decide import Unchanged, decide, message_ids_of
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
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import STATE_VERSION, decode, decode_state, encode, encode_state, same_state
from tests.domain.harness import PARENT, THREAD, account, message_id
from tests.support.examples import examples
from tests.support.journal_writer import encode_previous_state, folded

SMALL = Limits(messages=5, administrators=3, members=3)

accounts = st.sampled_from([account(name) for name in "abcd"])
people = st.lists(accounts, max_size=4).map(tuple)
some_accounts = st.lists(accounts, min_size=1, max_size=4).map(tuple)
message_ids = st.sampled_from([message_id(number) for number in range(10)])
times = st.integers(0, 2**53 - 1)
texts = st.sampled_from(["", "a", "ä\u200b\U0001f600", '"\\\n'])
messages = st.lists(
    st.builds(NewMessage, message_ids, texts, st.none() | message_ids, people), min_size=1, max_size=3
).map(tuple)

creations = st.builds(
    CreateThread,
    st.just(THREAD),
    accounts,
    texts,
    st.none() | texts,
    st.sampled_from([None, None, PARENT, THREAD]),
    st.sampled_from([True, True, True, False]),
    some_accounts,
    people,
    times,
)
one_command: st.SearchStrategy[Command] = st.one_of(
    st.builds(AddMessages, st.just(THREAD), accounts, messages, times),
    st.builds(RemoveMessages, st.just(THREAD), accounts, st.lists(message_ids, max_size=4).map(tuple), times),
    st.builds(JoinMemberIds, st.just(THREAD), accounts, people, times),
    st.builds(LeaveMemberIds, st.just(THREAD), accounts, people, times),
    st.builds(JoinAdministratorIds, st.just(THREAD), accounts, some_accounts, times),
    st.builds(LeaveAdministratorIds, st.just(THREAD), accounts, some_accounts, times),
    creations,
    # Rarely the last word: what comes after it is refused.
    st.builds(DestroyThread, st.just(THREAD), accounts, times),
)
timed = st.tuples(one_command, st.integers(0, 100))
sequences = st.tuples(st.tuples(creations, st.integers(0, 100)), st.lists(timed, max_size=40)).map(
    lambda parts: [parts[0], *parts[1]]
)


def run(sequence: list[tuple[Command, int]]) -> tuple[Thread | None, list[Event]]:
    """The state and the history after a sequence; a decision never changes the state, an event is never empty."""
    state: Thread | None = None
    history: list[Event] = []
    for command, now in sequence:
        before = None if state is None else encode_state(state)
        outcome = decide(state, command, now, SMALL)
        assert outcome == decide(state, command, now, SMALL), "a decision depends on more than its arguments"
        assert before == (None if state is None else encode_state(state)), "a decision changed the state"
        if isinstance(outcome, Refusal):
            continue
        if isinstance(outcome, Unchanged):
            assert state is not None
            assert 1 <= outcome.sequence_nr <= state.sequence_nr
            continue
        tells_only_what_changes(state, command.account_id, outcome)
        history.append(outcome)
        state = evolve(state, outcome, len(history))
        keeps_its_invariants(state, history)
    return state, history


def tells_only_what_changes(state: Thread | None, by: AccountId, event: Event) -> None:
    """Everything an event names, it changes, and he who did it had the right."""
    if isinstance(event, ThreadCreated):
        assert state is None
        return
    assert state is not None
    assert not state.destroyed
    assert state.readable_by(by)
    match event:
        case MessagesAdded():
            ids = message_ids_of(event)
            assert ids
            assert not set(ids) & (set(state.messages) | set(state.removed))
        case MessagesRemoved():
            assert event.message_ids
            assert all(state.messages[id].sender_id == by for id in event.message_ids)
        case AdministratorIdsJoined():
            assert event.administrator_ids
            assert not set(event.administrator_ids) & set(state.administrators)
        case AdministratorIdsLeft():
            assert event.administrator_ids
            assert set(event.administrator_ids) < set(state.administrators)
        case MemberIdsJoined():
            assert event.member_ids
            assert not set(event.member_ids) & set(state.members)
        case MemberIdsLeft():
            assert event.member_ids
            assert set(event.member_ids) <= set(state.members)
            assert by in state.administrators or event.member_ids == (by,)
        case ThreadDestroyed():
            pass
    if isinstance(event, ThreadDestroyed | AdministratorIdsJoined | AdministratorIdsLeft | MemberIdsJoined):
        assert by in state.administrators


def keeps_its_invariants(state: Thread, history: list[Event]) -> None:
    """Invariants of every state of every thread."""
    assert state.administrators
    assert len(state.administrators) <= SMALL.administrators
    assert len(state.members) <= SMALL.members
    assert len(state.messages) <= SMALL.messages
    assert not set(state.messages) & set(state.removed)
    places = [(live.sequence_nr, live.index) for live in state.messages.values()]
    assert places == sorted(set(places))
    assert state.sequence_nr == len(history)
    assert (state.created_at, state.updated_at) == (history[0].at, history[-1].at)
    assert state.created_at <= state.updated_at


@examples(400)
@given(sequences)
def test_any_history_folds_to_the_state(sequence: list[tuple[Command, int]]) -> None:
    """Also when each event went through the journal's bytes, and from a snapshot at any point."""
    state, history = run(sequence)
    stored = [encode(event) for event in history]
    again: Thread | None = None
    for seq_nr, row in enumerate(stored, 1):
        event = decode(*row)
        assert event == history[seq_nr - 1]
        again = evolve(again, event, seq_nr)
        again = decode_state(encode_state(again))
    assert again == state
    # Equality of dicts does not see their order.
    assert again is None or state is None or encode_state(again) == encode_state(state)


@examples(150)
@given(sequences, st.integers(1, 40))
def test_a_snapshot_of_any_version_and_its_tail_are_the_full_replay(
    sequence: list[tuple[Command, int]], at: int
) -> None:
    """Wherever the snapshot was taken; one of the version before lacks the places of messages, and nothing else."""
    state, history = run(sequence)
    at = min(at, len(history))
    if state is None or not at:
        return
    for encoded, version in (
        (encode_state(folded(history[:at])), STATE_VERSION),
        (encode_previous_state(folded(history[:at])), STATE_VERSION - 1),
    ):
        again = decode_state(encoded, version)
        for seq_nr, event in enumerate(history[at:], at + 1):
            again = evolve(again, event, seq_nr)
        assert same_state(again, state)
        assert same_state(decode_state(encode_state(again)), state), "kept by this release"


@examples(150)
@given(sequences)
def test_time_never_falls_in_any_history(sequence: list[tuple[Command, int]]) -> None:
    """However the clocks of its owners went."""
    _, history = run(sequence)
    assert all(earlier.at <= later.at for earlier, later in pairwise(history))


@examples(150)
@given(sequences)
def test_message_ids_are_unique_in_any_history(sequence: list[tuple[Command, int]]) -> None:
    """None is used again while it is remembered, and every reply is to a message posted before."""
    _, history = run(sequence)
    posted: list[str] = []
    for event in history:
        if isinstance(event, MessagesAdded):
            for message in event.messages:
                assert message.reply_message_id is None or message.reply_message_id in posted
                posted.append(message.message_id)
    assert len(posted) == len(set(posted))


@examples(150)
@given(sequences)
def test_repeating_any_accepted_sequence_adds_no_message_and_no_thread(sequence: list[tuple[Command, int]]) -> None:
    """A client that sends everything again posts nothing twice."""
    state, history = run(sequence)
    for command, now in sequence:
        if isinstance(command, AddMessages | CreateThread) and state is not None:
            outcome = decide(state, command, now, SMALL)
            if isinstance(outcome, MessagesAdded):
                known = {id for event in history if isinstance(event, MessagesAdded) for id in message_ids_of(event)}
                assert not known & set(message_ids_of(outcome))
            assert not isinstance(outcome, ThreadCreated)


@examples(150)
@given(sequences)
def test_claimed_times_decide_nothing_in_any_history(sequence: list[tuple[Command, int]]) -> None:
    """Another claim, the same outcome but for the claim itself."""
    state, history = run(sequence)
    other, claimed_otherwise = run([(replace(command, create_at=7), now) for command, now in sequence])
    assert other == state
    assert [type(event) for event in claimed_otherwise] == [type(event) for event in history]
    assert {event.create_at for event in claimed_otherwise} <= {7}
