"""Bodies: the shape of what a client posts, and the command it comes to.

Each body is a strict pydantic model: unknown fields are refused, nothing is coerced, ids come out in upper case and
texts in NFC.  The same models make the request schemas of the OpenAPI document.  Rules across fields, which a model
cannot express (`CommandBody.cross_field_errors`), are checked on the JSON value, so that their failures are reported
beside the rest.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
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
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, canonical
from shard_worker.gateway.http.failures import Failure, FailureCode, of_field
from shard_worker.gateway.public import examples
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.texts import checked_text

ULID_PATTERN: Final = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$"
GREATEST_CREATE_AT: Final = 2**53 - 1
IDS_A_LIST: Final = 1_000
MESSAGES_A_COMMAND: Final = 100
DERIVED_TIME_PART: Final = "0" * 10
"""The time part of thread ids that are derived from an ``Idempotency-Key``; a client chooses no such id."""


def _text(least: int, most: int) -> tuple[AfterValidator, WithJsonSchema]:
    schema = {"type": "string", "minLength": least, "maxLength": most, "pattern": "^[^\\u0000]*$"}
    return AfterValidator(checked_text(least, most)), WithJsonSchema(schema)


_ID = StringConstraints(strict=True, pattern=ULID_PATTERN, to_upper=True)
Account = Annotated[AccountId, _ID, Field(examples=[examples.OTHER_ACCOUNT])]
Thread = Annotated[ThreadId, _ID]
Message = Annotated[MessageId, _ID, Field(examples=[examples.MESSAGE])]


def _client_chosen(thread_id: ThreadId) -> ThreadId:
    """The id as it is, unless its time part is that of ids derived from a key."""
    if thread_id.startswith(DERIVED_TIME_PART):
        raise PydanticCustomError(
            "thread_id_reserved", "must not begin with ten zeros: such ids are derived from an Idempotency-Key"
        )
    return thread_id


_UP_TO_1000 = Field(max_length=IDS_A_LIST)
_1_TO_1000 = Field(min_length=1, max_length=IDS_A_LIST)
Title = Annotated[str, *_text(1, 255)]
Remarks = Annotated[str, *_text(0, 255)]
Text = Annotated[str, *_text(1, 4_000)]
CreateAt = Annotated[int, Field(ge=0, le=GREATEST_CREATE_AT)]


_Id = TypeVar("_Id")


def _distinct(ids: Iterable[_Id]) -> tuple[_Id, ...]:
    """Each id once, at its first place."""
    return tuple(dict.fromkeys(ids))


class _Body(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", alias_generator=to_camel, hide_input_in_errors=True, validate_by_name=False
    )


class PostedBody(_Body):
    """Fields of every body."""

    account_id: Account = Field(
        description="The caller. Trusted as it is: a client may name any account.", examples=[examples.ACCOUNT]
    )

    @staticmethod
    def cross_field_errors(value: dict[str, Any]) -> list[Failure]:  # Any: a JSON value, not yet checked
        """Failures of rules across fields."""
        return []

    def json_key_count(self) -> int | None:
        """How many names the JSON had, or None when fields together must be checked on the JSON value."""
        return len(self.model_fields_set)


class CommandBody(PostedBody):
    """Fields of every command."""

    create_at: CreateAt | None = Field(
        default=None,
        description="Epoch milliseconds of the client's clock; where it is left out, of the server's. Kept in the event; decides "
        "nothing.",
        examples=[examples.CREATED_AT],
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> Command:
        """The command on ``thread_id``; ``now`` (epoch milliseconds) replaces a missing ``createAt``."""
        raise NotImplementedError

    def compared(self) -> bytes:
        """The JSON by which the sendings of one key are compared: names in the order of the model, which a test pins."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True, exclude_none=True, exclude={"create_at"})


class CreateThreadBody(CommandBody):
    """Body of ``POST /v1/threads/create``."""

    parent_thread_id: Thread | None = Field(
        default=None,
        description="A thread that the caller can read; where it is left out, the thread has no parent.",
        examples=[examples.PARENT_THREAD],
    )
    title: Title = Field(description="The title; its length counts code points after NFC.", examples=[examples.TITLE])
    remarks: Remarks | None = Field(
        default=None, description="Remarks; where they are left out, there are none.", examples=[examples.REMARKS]
    )
    administrator_ids: Annotated[list[Account], _1_TO_1000] = Field(
        description="The accounts that administer the thread. They can read, and need not be members.",
        examples=[[examples.ACCOUNT]],
    )
    member_ids: Annotated[list[Account], _UP_TO_1000] = Field(
        description="The accounts that read and post.", examples=[[examples.ACCOUNT, examples.OTHER_ACCOUNT]]
    )
    thread_id: Annotated[Thread, AfterValidator(_client_chosen)] | None = Field(
        default=None,
        description="Chosen by the client; where it is left out, by the server. Ids that begin with ten zeros are refused.",
        examples=[examples.THREAD],
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> CreateThread:
        """The create; whether its parent is readable is found out afterwards."""
        return CreateThread(
            thread_id=thread_id,
            account_id=self.account_id,
            title=self.title,
            remarks=self.remarks,
            parent_thread_id=self.parent_thread_id,
            parent_readable=True,
            administrator_ids=_distinct(self.administrator_ids),
            member_ids=_distinct(self.member_ids),
            create_at=now if self.create_at is None else self.create_at,
        )


class DestroyThreadBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/destroy``."""

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> DestroyThread:
        """The destroy."""
        return DestroyThread(thread_id, self.account_id, now if self.create_at is None else self.create_at)


class JoinAdministratorIdsBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/administrator-ids/join``."""

    account_ids: Annotated[list[Account], _1_TO_1000] = Field(
        description="The accounts that become administrators.", examples=[[examples.OTHER_ACCOUNT]]
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> JoinAdministratorIds:
        """The join."""
        at = now if self.create_at is None else self.create_at
        return JoinAdministratorIds(thread_id, self.account_id, _distinct(self.account_ids), at)


class LeaveAdministratorIdsBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/administrator-ids/leave``: one of the two lists."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"accountId": examples.ACCOUNT, "administratorIds": [examples.OTHER_ACCOUNT]}]}
    )

    administrator_ids: Annotated[list[Account], _1_TO_1000] | None = Field(
        default=None,
        description="The administrators who leave. Either this list or `accountIds` is given, not both.",
        examples=[[examples.OTHER_ACCOUNT]],
    )
    account_ids: Annotated[list[Account], _1_TO_1000] | None = Field(
        default=None,
        description="Accepted in place of `administratorIds`; both together are refused.",
        examples=[[examples.OTHER_ACCOUNT]],
        json_schema_extra={"deprecated": True},
    )

    @staticmethod
    def cross_field_errors(value: dict[str, Any]) -> list[Failure]:  # Any: a JSON value, not yet checked
        """One of the two lists, not both and not neither."""
        given = [value.get(name) is not None for name in ("administratorIds", "accountIds")]
        if all(given):
            detail = "must be left out when administratorIds is given"
            return [of_field(("accountIds",), FailureCode.EXCLUDED, detail)]
        return [] if any(given) else [of_field(("administratorIds",), FailureCode.REQUIRED, "is required")]

    def json_key_count(self) -> None:
        """Two lists, of which one must be given."""

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> LeaveAdministratorIds:
        """The leave."""
        at = now if self.create_at is None else self.create_at
        ids = self.administrator_ids or self.account_ids or []
        return LeaveAdministratorIds(thread_id, self.account_id, _distinct(ids), at)


class JoinMemberIdsBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/member-ids/join``."""

    account_ids: Annotated[list[Account], _UP_TO_1000] = Field(
        description="The accounts that become members.", examples=[[examples.OTHER_ACCOUNT]]
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> JoinMemberIds:
        """The join."""
        at = now if self.create_at is None else self.create_at
        return JoinMemberIds(thread_id, self.account_id, _distinct(self.account_ids), at)


class LeaveMemberIdsBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/member-ids/leave``."""

    account_ids: Annotated[list[Account], _UP_TO_1000] = Field(
        description="The members who leave.", examples=[[examples.OTHER_ACCOUNT]]
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> LeaveMemberIds:
        """The leave."""
        at = now if self.create_at is None else self.create_at
        return LeaveMemberIds(thread_id, self.account_id, _distinct(self.account_ids), at)


class NewMessageBody(_Body):
    """One message of `AddMessagesBody`."""

    message_id: Message | None = Field(
        default=None,
        description="Chosen by the client; where it is left out, by the server.",
        examples=[examples.MESSAGE],
    )
    reply_message_id: Message | None = Field(
        default=None,
        description="A live message of the thread, or an earlier one of this command; where it is left out, this is no reply.",
        examples=[examples.OTHER_MESSAGE],
    )
    to_account_ids: Annotated[list[Account], _UP_TO_1000] | None = Field(
        default=None,
        description="The accounts that the message names, members or not; where they are left out, none.",
        examples=[[examples.OTHER_ACCOUNT]],
    )
    text: Text = Field(description="The text; its length counts code points after NFC.", examples=[examples.TEXT])


class AddMessagesBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/messages/add``."""

    messages: Annotated[list[NewMessageBody], Field(min_length=1, max_length=MESSAGES_A_COMMAND)] = Field(
        description="The messages, stored together or not at all.", examples=[[{"text": examples.TEXT}]]
    )

    @staticmethod
    def cross_field_errors(value: dict[str, Any]) -> list[Failure]:  # Any: a JSON value, not yet checked
        """A message id is given once."""
        messages = value.get("messages")
        if not isinstance(messages, list) or len(messages) < 2:
            return []
        failures = []
        seen: set[str] = set()
        for index, message in enumerate(messages):
            message_id = message.get("messageId") if isinstance(message, dict) else None
            canonical_id = canonical(message_id) if isinstance(message_id, str) else None
            if canonical_id is None:
                continue
            if canonical_id in seen:
                location = ("messages", index, "messageId")
                failures.append(of_field(location, FailureCode.DUPLICATE, "was given before"))
            seen.add(canonical_id)
        return failures

    def json_key_count(self) -> int | None:
        """Those of the messages too; None when two messages have one id."""
        messages = self.messages
        if len(messages) > 1:
            chosen = [message.message_id for message in messages if message.message_id is not None]
            if len(set(chosen)) < len(chosen):
                return None
        return len(self.model_fields_set) + sum([len(message.model_fields_set) for message in messages])

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> AddMessages:
        """The add; ids that the client left out are minted."""
        messages = tuple(
            [
                NewMessage(
                    message.message_id or MessageId(mint.ulid(now)),
                    message.text,
                    message.reply_message_id,
                    tuple(dict.fromkeys(message.to_account_ids)) if message.to_account_ids else (),
                )
                for message in self.messages
            ]
        )
        return AddMessages(thread_id, self.account_id, messages, now if self.create_at is None else self.create_at)


class RemoveMessagesBody(CommandBody):
    """Body of ``POST /v1/threads/{threadId}/messages/remove``."""

    message_ids: Annotated[list[Message], _UP_TO_1000] = Field(
        description="The messages to remove; ids that are not live in this thread are ignored.",
        examples=[[examples.MESSAGE]],
    )

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> RemoveMessages:
        """The removal."""
        at = now if self.create_at is None else self.create_at
        return RemoveMessages(thread_id, self.account_id, _distinct(self.message_ids), at)


class SetReadMarkerBody(PostedBody):
    """Body of ``POST /v1/threads/{threadId}/read-markers/set``."""

    message_id: Message = Field(
        description="The newest message that the account has read; a removed one is allowed.",
        examples=[examples.MESSAGE],
    )
