"""Answers: the owner's answer as the JSON of a 200.

Bodies of commands are put together by hand: ids are ASCII without anything to escape, and three fields are not worth an
encoder.  Their schemas, which the OpenAPI document shows, are in `shard_worker.gateway.public.response_schemas`.
"""

from typing import Final

import msgspec
from msgspec import Struct

from shard_worker.contract import AccountIdPage, Done, MessagePage, MessageView, ThreadView
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.readmodel.queries import MentionList, ThreadList
from shard_worker.streams.position import position_text

_encode: Final = msgspec.json.Encoder().encode


def created(thread_id: ThreadId, done: Done) -> bytes:
    """A create's answer: the new id under the reference's name and under ours."""
    return b'{"error_messages":[],"threadId":"%b","thread_id":"%b",%b}' % (
        thread_id.encode(),
        thread_id.encode(),
        _place(done),
    )


def changed(thread_id: ThreadId, done: Done) -> bytes:
    """The answer of a command on an existing thread."""
    return b'{"error_messages":[],"threadId":"%b",%b}' % (thread_id.encode(), _place(done))


def messages_changed(_: ThreadId, done: Done) -> bytes:
    """The answer of adding or removing messages."""
    return b'{"error_messages":[],"messageIds":%b,%b}' % (_ids(done.message_ids), _place(done))


def marked(thread_id: ThreadId, message_id: MessageId) -> bytes:
    """The answer of setting a read marker: the message at which it is now."""
    return b'{"error_messages":[],"threadId":"%b","messageId":"%b"}' % (thread_id.encode(), message_id.encode())


def _place(answer: Done | AccountIdPage | MessagePage) -> bytes:
    """The thread's newest event, as a number and as the position of a stream."""
    position = position_text(answer.sequence_nr, answer.epoch)
    return b'"sequenceNr":%d,"position":"%b"' % (answer.sequence_nr, position.encode())


def _ids(ids: tuple[MessageId, ...]) -> bytes:
    return ('["' + '","'.join(ids) + '"]').encode() if ids else b"[]"


def _end(next_cursor: str | None) -> bytes:
    return b',"nextCursor":"%b"}' % next_cursor.encode() if next_cursor else b',"nextCursor":null}'


def thread(view: ThreadView) -> bytes:
    """The answer of ``GET /v1/threads/{threadId}``."""
    return b'{"error_messages":[],"result":%b}' % _encode(
        {**_thread(view), "position": position_text(view.sequence_nr, view.epoch)}
    )


def _thread(view: ThreadView) -> dict[str, object]:
    return {
        "id": view.thread_id,
        "creatorId": view.creator_id,
        "parentThreadId": view.parent_thread_id,
        "title": view.title,
        "remarks": view.remarks,
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
        "sequenceNr": view.sequence_nr,
    }


def threads(page: ThreadList, next_cursor: str | None, position: bytes) -> bytes:
    """A page of an account's threads; ``position`` is where the account's stream goes on."""
    listed = [{**_thread(each.view), "unreadCount": each.unread_count} for each in page.threads]
    head = b'{"error_messages":[],"results":%b,"poisoned":%b,"position":"%b"'
    return head % (_encode(listed), _encode(page.poisoned), position) + _end(next_cursor)


def mentions(page: MentionList, next_cursor: str | None) -> bytes:
    """A page of the messages that name an account."""
    listed = [_message(each.thread_id, each.message) for each in page.mentions]
    return b'{"error_messages":[],"result":%b,"poisoned":%b' % (_encode(listed), _encode(page.poisoned)) + _end(
        next_cursor
    )


def account_ids(page: AccountIdPage, next_cursor: str | None) -> bytes:
    """A page of administrators or members."""
    listed = _encode(page.account_ids)
    return b'{"error_messages":[],"results":%b,%b' % (listed, _place(page)) + _end(next_cursor)


class _Listed(Struct, gc=False, rename="camel"):
    """A message in an answer; the order of the fields is that of the JSON."""

    id: MessageId
    thread_id: ThreadId
    sender_id: AccountId
    type: str
    body: str | None
    reply_message_id: MessageId | None
    to_account_ids: tuple[AccountId, ...]
    created_at: int
    updated_at: int
    sequence_nr: int


def _message(thread_id: ThreadId, message: MessageView) -> _Listed:
    return _Listed(
        message.message_id,
        thread_id,
        message.sender_id,
        "text",
        message.text,
        message.reply_message_id,
        message.to_account_ids,
        message.created_at,
        message.updated_at,
        message.sequence_nr,
    )


def messages(thread_id: ThreadId, page: MessagePage, next_cursor: str | None) -> bytes:
    """A page of messages."""
    listed = _encode([_message(thread_id, message) for message in page.messages])
    return b'{"error_messages":[],"result":%b,%b' % (listed, _place(page)) + _end(next_cursor)
