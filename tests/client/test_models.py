"""Values of calls, against the objects of the published contract."""

import json

import pytest
from threadcluster_client.models import (
    Message,
    NewMessage,
    Thread,
    message_of,
    new_message_fields,
    thread_of,
)

from tests.support.pure_modules import ROOT

MESSAGE = {
    "id": "M",
    "threadId": "T",
    "senderId": "A",
    "type": "text",
    "body": None,
    "replyMessageId": "R",
    "toAccountIds": ["B"],
    "createdAt": 1,
    "updatedAt": 2,
    "sequenceNr": 3,
}
THREAD = {
    "id": "T",
    "creatorId": "A",
    "parentThreadId": None,
    "title": "t",
    "remarks": None,
    "createdAt": 1,
    "updatedAt": 2,
    "sequenceNr": 3,
    "position": "3.1",
    "unreadCount": 4,
}


def test_objects_of_the_server_are_read_with_all_their_fields() -> None:
    """Those that this release does not know are ignored."""
    assert message_of(MESSAGE | {"new": 1}) == Message("M", "T", "A", "text", None, "R", ("B",), 1, 2, 3)
    assert thread_of(THREAD | {"new": 1}) == Thread("T", "A", None, "t", None, 1, 2, 3, "3.1", 4)
    schemas = json.loads((ROOT / "docs" / "openapi.json").read_text())["components"]["schemas"]
    assert set(schemas["Message"]["properties"]) == set(MESSAGE)
    assert set(schemas["Thread"]["properties"]) | set(schemas["ListedThread"]["properties"]) == set(THREAD)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("hello", {"text": "hello"}),
        (NewMessage("hello"), {"text": "hello", "toAccountIds": []}),
        (
            NewMessage("hello", "M", "R", ("B",)),
            {"text": "hello", "toAccountIds": ["B"], "messageId": "M", "replyMessageId": "R"},
        ),
    ],
)
def test_a_message_is_written_as_a_body_has_it(message: NewMessage | str, fields: object) -> None:
    """A text alone too."""
    assert new_message_fields(message) == fields
