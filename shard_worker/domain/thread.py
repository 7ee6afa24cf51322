"""The state of one thread: what its rules need to know, and no more.

It holds no message text: a text is read from the journal.  The state belongs to one actor alone, so `evolve` changes
the state in place; other code only reads it.  A changed field raises `shard_worker.journal.codec.STATE_VERSION`.
"""

from hashlib import blake2b
from typing import Final

from msgspec import Struct

from shard_worker.domain.ids import AccountId, MessageId, ThreadId

REMOVED_IDS_KEPT: Final = 1_000
"""How many removed message ids stay taken."""


class LiveMessage(Struct, frozen=True, gc=False, array_like=True):
    """One live message: its author, its place in the journal, and a digest of its content."""

    sender_id: AccountId
    reply_message_id: MessageId | None
    sequence_nr: int
    """The event that added it; with ``index`` its place in the thread."""
    index: int
    created_at: int
    content: int
    """64 bits over text, reply link and addressees: tells a repeated post from another one under the same id."""
    offset: int = 0
    """Where the message begins in its event as this release encodes it, in bytes: one text is read without its event.
    A hint: the reader checks what it finds there, since the event may have been written by another release."""
    size: int = 0
    """Bytes of the encoded message; 0 where they are not known, as in a state of version 1."""


class Thread(Struct, array_like=True):
    """A thread that was created.  Sets are dicts: they keep the order of joining, and copy and encode as they are."""

    creator_id: AccountId
    parent_thread_id: ThreadId | None
    title: str | None
    remarks: str | None
    creation: int
    """64 bits over the creating command: distinguishes a repeated creation from another one."""
    created_at: int
    updated_at: int
    sequence_nr: int
    administrators: dict[AccountId, None]
    members: dict[AccountId, None]
    messages: dict[MessageId, LiveMessage]
    removed: dict[MessageId, None]
    """The last ids removed, oldest first, at most `REMOVED_IDS_KEPT`."""
    destroyed: bool = False

    def readable_by(self, account_id: AccountId) -> bool:
        """Whether an account may read the thread: it is a member or an administrator."""
        return account_id in self.administrators or account_id in self.members


def digest(*parts: str | None) -> int:
    """64 bits over strings, distinct from each other and from absence; never negative."""
    # A length before each part keeps ("a", "bc") and ("ab", "c") apart; None has none.
    return digest_of_joined("".join(["-" if part is None else f"{len(part)}:{part}" for part in parts]))


def digest_of_joined(joined: str) -> int:
    """`digest` of parts that are joined already."""
    return int.from_bytes(blake2b(joined.encode(), digest_size=8).digest(), "big") >> 1
