"""The short way of the most frequent body: one new message, plain, from its bytes to its command without a pydantic model.

It may refuse what `shard_worker.gateway.public.validation` accepts, never the other way round: a body that it refuses, for
whatever reason, is judged there, and so is one with an ``Idempotency-Key``, whose hash is made from the model.
"""

from typing import Annotated, Final

from msgspec import UNSET, DecodeError, Meta, Struct, UnsetType
from msgspec.json import Decoder

from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.gateway.public.id_generator import IdGenerator

_Id = Annotated[str, Meta(min_length=26, max_length=26, pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
"""An id in upper case.  The length excludes the line end that ``$`` would let through."""


class _PlainMessage(Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    text: Annotated[str, Meta(min_length=1, max_length=4_000)]
    message_id: _Id | UnsetType = UNSET


class PlainMessageBody(Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """Body of ``messages/add`` with one message of printable ASCII that replies to nothing and names no account."""

    account_id: _Id
    messages: Annotated[list[_PlainMessage], Meta(min_length=1, max_length=1)]

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> AddMessages:
        """The add, as `AddMessagesBody.command` gives it."""
        message = self.messages[0]
        chosen = message.message_id
        message_id = MessageId(mint.ulid(now) if chosen is UNSET else chosen)
        return AddMessages(
            thread_id, AccountId(self.account_id), (NewMessage(message_id, message.text, None, ()),), now
        )


_decode: Final = Decoder(PlainMessageBody).decode


def plain_message(raw: bytes) -> PlainMessageBody | None:
    """The body in ``raw`` when it is such a one without doubt."""
    try:
        body = _decode(raw)
    except (DecodeError, ValueError):
        return None
    message = body.messages[0]
    text = message.text
    # As in `fast_validate`, an equal number of colons and names means that no name came twice.
    names = 3 if message.message_id is UNSET else 4
    if raw.count(b":") != names or not text.isascii() or not text.isprintable():
        return None
    return body
