"""Illegal histories that `fsck` reports; no database needed."""

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
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.ids import MessageId, ulid_uuid
from shard_worker.journal.codec import encode
from shard_worker.journal.fsck.report import Check, Finding
from shard_worker.journal.fsck.thread import StoredRow, ThreadCheck
from tests.support.journal_writer import ANN, BOB, SHARDS, created, new_thread, posted, whole_life

ONE = MessageId("01J11111111111111111111111")
TWO = MessageId("01J22222222222222222222222")


def check(*events: Event) -> list[Finding]:
    """Findings in a thread of these events."""
    findings: list[Finding] = []
    thread = ThreadCheck(3, ulid_uuid(new_thread(3)), SHARDS, findings.append)
    for number, event in enumerate(events, 1):
        thread.row(StoredRow(number, number, *encode(event), b"{}", None, None))
    return findings


def test_a_life_of_every_event_type_is_legal() -> None:
    """From creation to destruction nothing is found."""
    assert check(*whole_life()) == []


def test_a_redacted_text_is_legal() -> None:
    """A text that was taken out on legal demand leaves a sound history."""
    assert check(created(), MessagesAdded(sender_id=ANN, messages=(PostedMessage(ONE, None),), at=2, create_at=2)) == []


def test_a_post_without_the_right_is_no_finding() -> None:
    """Rights are rules, rules may change, and history stays what it is."""
    assert check(created(), posted(by=BOB)) == []


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([posted()], "comes before the creation"),
        ([created(), created()], "creates the thread again"),
        (
            [ThreadCreated(ANN, "t", None, None, (), (), 1, 1)],
            "has no administrator",
        ),
        (
            [created(), ThreadDestroyed(ANN, 2, 2), posted(at=3)],
            "comes after the destruction",
        ),
        ([created(), posted(at=9), posted(at=8)], "its time 8 is before 9"),
        ([created(), AdministratorIdsJoined(ANN, (ANN,), 2, 2)], "adds administrators that are there"),
        ([created(), AdministratorIdsJoined(ANN, (), 2, 2)], "adds no administrators"),
        ([created(), AdministratorIdsLeft(ANN, (BOB,), 2, 2)], "takes administrators away that are not there"),
        ([created(), AdministratorIdsLeft(ANN, (ANN,), 2, 2)], "leaves no administrator"),
        ([created(), MemberIdsJoined(ANN, (BOB, BOB), 2, 2)], "names members twice"),
        (
            [created(), MemberIdsJoined(ANN, (BOB,), 2, 2), MemberIdsJoined(ANN, (BOB,), 3, 3)],
            "adds members that are there",
        ),
        ([created(), MemberIdsLeft(ANN, (BOB,), 2, 2)], "takes members away that are not there"),
        ([created(), MemberIdsLeft(ANN, (), 2, 2)], "takes no members away"),
        ([created(), posted(ONE), posted(ONE, at=3)], "adds messages that are there"),
        ([created(), posted(ONE, ONE)], "names messages twice"),
        ([created(), MessagesRemoved(ANN, (ONE,), 2, 2)], "takes messages away that are not there"),
        (
            [created(), posted(ONE, TWO), MessagesRemoved(BOB, (ONE,), 3, 3)],
            "removes messages that are another's",
        ),
    ],
    ids=[
        *("no-creation", "second-creation", "no-administrator", "after-destruction", "time-falls"),
        *("administrator-again", "no-administrators", "no-such-administrator", "last-administrator"),
        *("member-twice", "member-again", "no-such-member", "no-members"),
        *("message-again", "message-twice", "no-such-message", "message-of-another"),
    ],
)
def test_an_event_that_breaks_its_promise_is_named(events: list[Event], says: str) -> None:
    """The last event of each of these histories cannot follow the ones before it."""
    findings = check(*events)
    assert {finding.check for finding in findings} == {Check.HISTORY}
    assert {finding.seq_nr for finding in findings} == {len(events)}
    assert any(says in finding.detail for finding in findings), [finding.detail for finding in findings]


def test_what_cannot_be_applied_is_named_as_such() -> None:
    """Evolve's own objection is shown beside the broken promise."""
    details = [finding.detail for finding in check(created(), MemberIdsLeft(ANN, (BOB,), 2, 2), posted(at=3))]
    assert any("MemberIdsLeft cannot be applied" in detail for detail in details)


def test_many_ids_are_named_by_the_first_three() -> None:
    """A finding stays one readable line."""
    ids = tuple([MessageId(f"01J{number:023d}") for number in range(9)])
    (finding, *_) = check(created(), MessagesRemoved(ANN, ids, 2, 2))
    assert "and 6 more" in finding.line()
    assert "\n" not in finding.line()
