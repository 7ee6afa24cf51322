"""Changes of events in the read model: the net change of a batch, each row once."""

from uuid import UUID

import msgspec
import pytest

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    PostedMessage,
    ThreadDestroyed,
)
from shard_worker.domain.ids import ulid_uuid
from shard_worker.readmodel.projection import Changes, MentionRow, StoredEvent
from tests.support.journal_writer import ANN, BOB, created, message_id, new_thread, posted, whole_life

THREAD = ulid_uuid(new_thread())


def changes_of(*events: Event, first: int = 1, thread: UUID = THREAD) -> Changes:
    """The net change of a thread's events."""
    changes = Changes()
    for seq_nr, event in enumerate(events, first):
        changes.add(StoredEvent(3, thread, seq_nr, 7, 100 + seq_nr, event))
    return changes


def test_a_whole_life_in_one_batch_is_one_row_of_each_kind() -> None:
    """A message that was added and removed within the batch is added as removed; roles are those of the end."""
    changes = changes_of(*whole_life())
    head = changes.threads[THREAD]
    assert head.created is not None
    assert (head.sequence_nr, head.epoch, head.xid) == (8, 7, 108)
    assert (head.activity_at, head.updated_at, head.destroyed_at) == (3, 8, 8)
    assert [message.removed for message in changes.messages] == [False, True]
    assert changes.removed == set()
    roles = {account: (each.administrator, each.member, each.seq_nr) for (_, account), each in changes.accounts.items()}
    assert roles == {ANN: (False, None, 5), BOB: (True, False, 7)}


def test_a_later_batch_names_only_what_it_changes() -> None:
    """A role that the batch does not touch is None; a removed message of an earlier batch is named alone."""
    gone = message_id()
    changes = changes_of(
        MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=5, create_at=5),
        MessagesRemoved(remover_id=ANN, message_ids=(gone,), at=6, create_at=6),
        first=9,
    )
    head = changes.threads[THREAD]
    assert head.created is None
    assert (head.sequence_nr, head.activity_at, head.destroyed_at) == (10, None, None)
    assert changes.removed == {(THREAD, gone)}
    assert not changes.messages
    assert [(each.administrator, each.member) for each in changes.accounts.values()] == [(None, True)]


def test_roles_within_a_batch_end_as_the_last_event_says() -> None:
    """Joined and left, and the other way round."""
    changes = changes_of(
        AdministratorIdsJoined(adder_id=ANN, administrator_ids=(BOB,), at=1, create_at=1),
        MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2),
        AdministratorIdsLeft(remover_id=ANN, administrator_ids=(BOB,), at=3, create_at=3),
        MemberIdsLeft(remover_id=ANN, member_ids=(BOB,), at=4, create_at=4),
        MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=5, create_at=5),
        ThreadDestroyed(destroyer_id=ANN, at=6, create_at=6),
        first=2,
    )
    [change] = changes.accounts.values()
    assert (change.administrator, change.member, change.seq_nr) == (False, True, 6)


@pytest.mark.parametrize(
    ("event", "administrator", "member"),
    [
        (msgspec.structs.replace(created(), administrator_ids=(BOB,)), True, None),
        (msgspec.structs.replace(created(), administrator_ids=(), member_ids=(BOB,)), None, True),
        (AdministratorIdsJoined(adder_id=ANN, administrator_ids=(BOB,), at=2, create_at=2), True, None),
        (AdministratorIdsLeft(remover_id=ANN, administrator_ids=(BOB,), at=2, create_at=2), False, None),
        (MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2), None, True),
        (MemberIdsLeft(remover_id=ANN, member_ids=(BOB,), at=2, create_at=2), None, False),
    ],
    ids=[
        "administrator-of-new",
        "member-of-new",
        "administrator-joins",
        "administrator-leaves",
        "member-joins",
        "leaves",
    ],
)
def test_each_event_changes_the_role_that_it_names(
    event: Event, administrator: bool | None, member: bool | None
) -> None:
    """Of its accounts alone, and that role alone."""
    changes = changes_of(event, first=4)
    roles = {account: (each.administrator, each.member, each.seq_nr) for (_, account), each in changes.accounts.items()}
    assert roles == {BOB: (administrator, member, 4)}


def test_every_addressee_of_a_message_is_a_mention() -> None:
    """At its place; a message without addressees has none, and keeps no empty list."""
    first, second = message_id(), message_id()
    event = MessagesAdded(
        sender_id=ANN,
        messages=(PostedMessage(first, "a"), PostedMessage(second, "b", first, (BOB, ANN))),
        at=9,
        create_at=9,
    )
    changes = changes_of(created(), event)
    assert changes.mentions == [MentionRow(account, 9, THREAD, 2, 1, second) for account in (BOB, ANN)]
    rows = changes.messages
    assert [row.message_id for row in rows] == [first, second]
    assert [row.to_account_ids for row in rows] == [(), (BOB, ANN)]
    assert [row.reply_message_id for row in rows] == [None, first]


def test_an_id_that_was_removed_may_be_given_to_another_message() -> None:
    """Each removal is of the message that had the id at that moment: in the tables, or in the batch."""
    taken = message_id()
    gone = MessagesRemoved(remover_id=ANN, message_ids=(taken,), at=3, create_at=3)
    changes = changes_of(gone, posted(taken), gone, posted(taken), first=9)
    assert changes.removed == {(THREAD, taken)}
    assert [(row.sequence_nr, row.removed) for row in changes.messages] == [(10, True), (12, False)]


def test_a_batch_is_counted_by_the_rows_that_it_changes() -> None:
    """Threads, roles, messages, removals of earlier messages, and mentions."""
    event = MessagesAdded(
        sender_id=ANN, messages=(PostedMessage(message_id(), "a", None, (BOB, ANN)),), at=2, create_at=2
    )
    gone = MessagesRemoved(remover_id=ANN, message_ids=(message_id(), message_id()), at=3, create_at=3)
    assert changes_of(created(), event, gone).rows == 1 + 1 + 1 + 2 + 2


def test_threads_do_not_depend_on_each_other() -> None:
    """A batch of two threads changes each as its own batch would."""
    other = ulid_uuid(new_thread())
    both = Changes()
    for seq_nr, event in enumerate(whole_life(), 1):
        both.add(StoredEvent(3, THREAD, seq_nr, 7, None, event))
        both.add(StoredEvent(3, other, seq_nr, 7, None, event))
    assert {thread: head.sequence_nr for thread, head in both.threads.items()} == {THREAD: 8, other: 8}
    assert len(both.messages) == 2 * len(changes_of(*whole_life()).messages)
