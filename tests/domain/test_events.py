"""The size of a message in its encoded event, and the digests by which a repeated command is recognized."""

import msgspec
import pytest

from shard_worker.domain.events import PostedMessage, encoded_size
from shard_worker.domain.evolve import content_digest, creation_digest
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.thread import digest

A, B, C = (AccountId(letter * 26) for letter in "ABC")
MESSAGE = MessageId("0" * 26)


@pytest.mark.parametrize(
    "text",
    [None, "", "plain", 'a "quote"', "a \\ backslash", "two\nlines", "übung", "😀", "\u2028", "\x7f"],
    ids=["none", "empty", "plain", "quote", "backslash", "newline", "two-bytes", "four-bytes", "separator", "delete"],
)
@pytest.mark.parametrize("reply", [None, MESSAGE], ids=["", "reply"])
@pytest.mark.parametrize("addressees", [(), (A,), (A, B)], ids=["to-all", "to-one", "to-two"])
def test_the_size_of_a_message_is_that_of_its_encoding(
    text: str | None, reply: MessageId | None, addressees: tuple[AccountId, ...]
) -> None:
    """A text is read at its offset in the journal: a wrong size would show another message's bytes."""
    message = PostedMessage(MESSAGE, text, reply, addressees)
    assert encoded_size(message) == len(msgspec.json.encode(message))


def test_every_part_of_a_post_counts_for_its_digest() -> None:
    """The usual message takes a shorter way to the same digest."""
    assert content_digest("hello", None, ()) == digest("hello", None)
    assert content_digest("hello", MESSAGE, ()) == digest("hello", MESSAGE)
    assert content_digest("hello", None, (A,)) == digest("hello", None, A)
    assert content_digest(None, None, ()) == digest(None, None)


def test_the_digest_of_a_creation_is_that_of_every_release() -> None:
    """It is kept in snapshots, and compared with what a later release computes."""
    found = creation_digest(A, ThreadId("0" * 26), "title", None, (B, A), (C, B))
    assert found == digest(A, "0" * 26, "title", None, f"{A} {B}", f"{B} {C}")
