"""How many bytes a page of messages takes in the answer of a query, without encoding it."""

from typing import Final

PAGE_BYTES: Final = 1 << 20
"""Maximum bytes of the answer to a query for messages; a page has at least one message."""
FRAME_BYTES: Final = 512
"""Bytes of a page beside the messages: names, an empty list of errors, the cursor."""
_LISTED: Final = (
    len(
        b'{"id":"","threadId":"","senderId":"","type":"text","body":,"replyMessageId":,"toAccountIds":,'
        b'"createdAt":,"updatedAt":,"sequenceNr":},'
    )
    - len(b'{"messageId":"","text":,"replyMessageId":,"toAccountIds":}')
    + 2 * 26
)
"""By how much a message in the answer is longer than in its event, but for numbers."""


def listed_size(created_at: int, sequence_nr: int, size: int) -> int:
    """Bytes of a message in the answer, from its bytes in its event."""
    return size + _LISTED + 2 * len(str(created_at)) + len(str(sequence_nr))
