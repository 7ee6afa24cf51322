"""The short way of a body: from its bytes to its command by msgspec, without a pydantic model.

It may refuse what `shard_worker.gateway.public.validation` accepts, never the other way round: a body that it refuses, for
whatever reason, is judged there, and only there its failures are listed.  So ids in lower case, ``null`` for an optional field
and whatever is seldom are refused here.

Three things msgspec takes that the judge refuses, and each is looked for: a name that an object has twice, U+0000 in a text, and
a text that is not in the form or length of `shard_worker.gateway.public.texts`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from msgspec import UNSET, DecodeError, Meta, Struct, UnsetType
from msgspec.json import Decoder, Encoder
from pydantic_core import PydanticCustomError

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
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.gateway.public import request_models as models
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.texts import checked_text

_ULID: Final = Meta(min_length=26, max_length=26, pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")
"""An id in upper case.  The length excludes the line end that ``$`` would let through."""
_Account: TypeAlias = Annotated[AccountId, _ULID]
_Message: TypeAlias = Annotated[MessageId, _ULID]
_Thread: TypeAlias = Annotated[ThreadId, _ULID]
_UP_TO_1000: Final = Meta(max_length=models.IDS_A_LIST)
_1_TO_1000: Final = Meta(min_length=1, max_length=models.IDS_A_LIST)

_encode: Final = Encoder().encode


class _Refused(ValueError):
    """The judge decides."""


class ShortBody(Struct, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Fields of every body.  Their order, here and below, is that of the pydantic models: the hash of a keyed command rests on it."""

    account_id: _Account
    create_at: Annotated[int, Meta(ge=0, le=models.GREATEST_CREATE_AT)] | UnsetType = UNSET

    _parts: ClassVar[int] = 1
    """Names that every such body has, those of its messages aside."""

    def check(self) -> tuple[int, int]:
        """How many names the JSON had, and colons within its texts, which are brought to their normal form; raises `ValueError`."""
        return self._parts + (self.create_at is not UNSET), 0

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> Command:
        """The command on ``thread_id``; ``now`` (epoch milliseconds) replaces a missing ``createAt``."""
        raise NotImplementedError

    def compared(self) -> bytes:
        """The JSON by which the sendings of one key are compared, as `CommandBody.compared` gives it."""
        self.create_at = UNSET
        return _encode(self)


def _at(create_at: int | UnsetType, now: int) -> int:
    return now if create_at is UNSET else create_at


def _distinct(ids: Sequence[Any]) -> tuple[Any, ...]:  # Any: ids of one kind
    return tuple(ids) if len(ids) < 2 else tuple(dict.fromkeys(ids))


def _text(text: str, check: Callable[[str], str]) -> str:
    """The normal form of a text that msgspec found no longer than it may be."""
    if text.isascii():
        if "\0" in text:
            raise _Refused
        return text
    try:
        return check(text)
    except PydanticCustomError:
        raise _Refused from None


_check_title: Final = checked_text(1, 255)
_check_remarks: Final = checked_text(0, 255)
_check_message: Final = checked_text(1, 4_000)


class ShortCreateBody(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Body of a create."""

    parent_thread_id: _Thread | UnsetType = UNSET
    title: Annotated[str, Meta(min_length=1, max_length=255)]
    remarks: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET
    administrator_ids: Annotated[list[_Account], _1_TO_1000]
    member_ids: Annotated[list[_Account], _UP_TO_1000]
    thread_id: _Thread | UnsetType = UNSET

    def check(self) -> tuple[int, int]:
        names = 4 + (self.create_at is not UNSET) + (self.parent_thread_id is not UNSET)
        colons = self.title.count(":")
        self.title = _text(self.title, _check_title)
        if self.remarks is not UNSET:
            names += 1
            colons += self.remarks.count(":")
            self.remarks = _text(self.remarks, _check_remarks)
        if self.thread_id is not UNSET:
            names += 1
            if self.thread_id.startswith(models.DERIVED_TIME_PART):
                raise _Refused
        return names, colons

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> CreateThread:
        remarks, parent = self.remarks, self.parent_thread_id
        return CreateThread(
            thread_id,
            self.account_id,
            self.title,
            None if remarks is UNSET else remarks,
            None if parent is UNSET else parent,
            True,
            _distinct(self.administrator_ids),
            _distinct(self.member_ids),
            _at(self.create_at, now),
        )


class _Destroy(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> DestroyThread:
        return DestroyThread(thread_id, self.account_id, _at(self.create_at, now))


class _JoinAdministrators(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    account_ids: Annotated[list[_Account], _1_TO_1000]
    _parts: ClassVar[int] = 2

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> JoinAdministratorIds:
        return JoinAdministratorIds(thread_id, self.account_id, _distinct(self.account_ids), _at(self.create_at, now))


class _LeaveAdministrators(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """With the field that is not deprecated."""

    administrator_ids: Annotated[list[_Account], _1_TO_1000]
    _parts: ClassVar[int] = 2

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> LeaveAdministratorIds:
        return LeaveAdministratorIds(
            thread_id, self.account_id, _distinct(self.administrator_ids), _at(self.create_at, now)
        )


class _JoinMembers(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    account_ids: Annotated[list[_Account], _UP_TO_1000]
    _parts: ClassVar[int] = 2

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> JoinMemberIds:
        return JoinMemberIds(thread_id, self.account_id, _distinct(self.account_ids), _at(self.create_at, now))


class _LeaveMembers(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    account_ids: Annotated[list[_Account], _UP_TO_1000]
    _parts: ClassVar[int] = 2

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> LeaveMemberIds:
        return LeaveMemberIds(thread_id, self.account_id, _distinct(self.account_ids), _at(self.create_at, now))


class _NewMessage(Struct, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    message_id: _Message | UnsetType = UNSET
    reply_message_id: _Message | UnsetType = UNSET
    to_account_ids: Annotated[list[_Account], _UP_TO_1000] | UnsetType = UNSET
    text: Annotated[str, Meta(min_length=1, max_length=4_000)]


class _AddMessages(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    messages: Annotated[list[_NewMessage], Meta(min_length=1, max_length=models.MESSAGES_A_COMMAND)]

    def check(self) -> tuple[int, int]:
        names, colons = 2 + (self.create_at is not UNSET), 0
        for message in self.messages:
            text = message.text
            colons += text.count(":")
            if "\0" in text or not text.isascii():  # asked here too: a call for each text costs more than the question
                message.text = _text(text, _check_message)
            names += (
                1
                + (message.message_id is not UNSET)
                + (message.reply_message_id is not UNSET)
                + (message.to_account_ids is not UNSET)
            )
        if len(self.messages) > 1:
            chosen = [message.message_id for message in self.messages if message.message_id is not UNSET]
            if len(set(chosen)) < len(chosen):
                raise _Refused
        return names, colons

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> AddMessages:
        if len(self.messages) == 1:
            made: tuple[NewMessage, ...] = (_new_message(self.messages[0], now, mint),)
        else:
            made = tuple([_new_message(message, now, mint) for message in self.messages])
        return AddMessages(thread_id, self.account_id, made, _at(self.create_at, now))


def _new_message(message: _NewMessage, now: int, mint: IdGenerator) -> NewMessage:
    chosen, reply, to = message.message_id, message.reply_message_id, message.to_account_ids
    return NewMessage(
        MessageId(mint.ulid(now)) if chosen is UNSET else chosen,
        message.text,
        None if reply is UNSET else reply,
        () if to is UNSET else _distinct(to),
    )


class _RemoveMessages(ShortBody, gc=False, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    message_ids: Annotated[list[_Message], _UP_TO_1000]
    _parts: ClassVar[int] = 2

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> RemoveMessages:
        return RemoveMessages(thread_id, self.account_id, _distinct(self.message_ids), _at(self.create_at, now))


_BODIES: Final[dict[type[models.PostedBody], type[ShortBody]]] = {
    models.CreateThreadBody: ShortCreateBody,
    models.DestroyThreadBody: _Destroy,
    models.JoinAdministratorIdsBody: _JoinAdministrators,
    models.LeaveAdministratorIdsBody: _LeaveAdministrators,
    models.JoinMemberIdsBody: _JoinMembers,
    models.LeaveMemberIdsBody: _LeaveMembers,
    models.AddMessagesBody: _AddMessages,
    models.RemoveMessagesBody: _RemoveMessages,
}
_DECODE: Final[dict[type[models.PostedBody], Callable[[bytes], ShortBody]]] = {
    body: Decoder(short).decode for body, short in _BODIES.items()
}


def short_body(body: type[models.PostedBody], raw: bytes) -> ShortBody | None:
    """The body in ``raw`` when it is without doubt one that ``body`` takes.

    Each name has its colon, and a name that came twice one more than is counted: so all colons of the bytes must be those of the
    names and those of the texts.  A colon that is escaped is a text's and not in the bytes; with one the count says nothing.
    """
    decode = _DECODE.get(body)
    if decode is None:
        return None
    try:
        found = decode(raw)
        names, colons = found.check()
    except (DecodeError, ValueError):
        return None
    if raw.count(b":") != names + colons or (colons and b"\\u003" in raw):
        return None
    return found
