"""Pages of a thread's messages from the read model: their statements, and the pages that are made of the rows.

A page is cut twice.  The statement leaves out rows that the answer has certainly no bytes for, so that none of them is sent; the
page itself is cut by the size of the answer, as the owner cuts it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.contract import MessagePage, MessageView
from shard_worker.domain.events import PostedMessage, encoded_size
from shard_worker.domain.ids import AccountId, MessageId, ulid_text
from shard_worker.domain.message_window import Side, taking_order
from shard_worker.journal.answer_size import FRAME_BYTES, PAGE_BYTES, listed_size

MESSAGE_BYTES: Final = "octet_length(coalesce(body, '')) + 29 * coalesce(cardinality(to_account_ids), 0)"
"""About how many bytes a message takes in an answer, and never more, in SQL."""
_TURN_IDS: Final = 2_000
"""Addressees after which the making of a page lets the loop turn."""

# Parameters: thread, account, how many rows at most; then an offset, or what the anchor is.
_MESSAGES: Final = """
WITH {thread}
SELECT thread.*, page.*
  FROM thread LEFT JOIN LATERAL ({rows}) AS page ON thread.readable
 ORDER BY page.place, page.index
"""
_WINDOW: Final = """
WITH {thread}, anchor AS (
    SELECT $5::bigint AS sequence_nr, $6::smallint AS index WHERE $5::bigint IS NOT NULL
     UNION ALL
    (SELECT found.sequence_nr, found.index FROM (
            SELECT m.sequence_nr, m.index FROM {place}.thread_message m
             WHERE m.thread_id = $1 AND m.message_id = $4::uuid AND NOT m.removed AND $5::bigint IS NULL
             UNION ALL
            SELECT m.sequence_nr, m.index FROM {place}.thread_message m
             WHERE m.thread_id = $1 AND m.message_id = $4::uuid AND m.removed AND $5::bigint IS NULL
            ) AS found
      ORDER BY found.sequence_nr DESC, found.index DESC LIMIT 1)
)
SELECT thread.*, anchor.sequence_nr AS anchor_nr, page.*,
       CASE WHEN anchor.sequence_nr IS NULL THEN (
            SELECT j.seq_nr FROM journal j WHERE j.shard_id = thread.shard_id AND j.thread_id = thread.thread_id
             ORDER BY j.seq_nr DESC LIMIT 1
       ) END AS journal_nr
  FROM thread LEFT JOIN anchor ON thread.readable
  LEFT JOIN LATERAL ({rows}) AS page ON anchor.sequence_nr IS NOT NULL
 ORDER BY page.place, page.index
"""
_ROWS: Final = """
SELECT * FROM (
    SELECT found.*, {newer} AS newer, count(*) OVER () AS matched,
           sum({bytes}) OVER (ORDER BY place {direction}, index {direction}) - ({bytes}) AS before
      FROM (
           SELECT m.message_id, m.sequence_nr AS place, m.index, m.sender_id, m.body, m.reply_message_id,
                  m.to_account_ids, m.created_at AS posted_at
             FROM {place}.thread_message m
            WHERE m.thread_id = thread.thread_id AND NOT m.removed AND (m.sequence_nr, m.index) {bound}
            ORDER BY m.sequence_nr {direction}, m.index {direction} LIMIT $3 {offset}
           ) AS found
    ) AS sized
 WHERE before < {most_bytes}
"""


def _rows(names: dict[str, object], bound: str, *, newer: bool = True, offset: str = "") -> str:
    direction = "ASC" if newer else "DESC"
    return _ROWS.format(
        **names,
        bytes=MESSAGE_BYTES,
        most_bytes=PAGE_BYTES,
        bound=bound,
        newer=newer,
        direction=direction,
        offset=offset,
    )


def messages_sql(names: dict[str, object]) -> str:
    """Messages from an offset on, or after a position."""
    rows = _rows(names, "> (coalesce($5::bigint, 0), coalesce($6::smallint, -1::smallint))", offset="OFFSET $4")
    return _MESSAGES.format(**names, rows=rows)


def window_sql(names: dict[str, object], side: Side) -> str:
    """Messages on one side, or on both, of an anchor: its id, or else its place."""
    anchor = "(anchor.sequence_nr, anchor.index)"
    match side:
        case Side.BEFORE:
            rows = _rows(names, f"< {anchor}", newer=False)
        case Side.AFTER:
            rows = _rows(names, f"> {anchor}")
        case Side.AROUND:
            older, newer = _rows(names, f"< {anchor}", newer=False), _rows(names, f">= {anchor}")
            rows = f"({older}) UNION ALL ({newer})"
    return _WINDOW.format(**names, rows=rows)


async def first_messages(rows: Sequence[asyncpg.Record], limit: int) -> MessagePage:
    """The page that begins with the first row."""
    return await _page(rows, Side.AFTER, limit, below=0)


async def window_of_messages(rows: Sequence[asyncpg.Record], side: Side, limit: int) -> MessagePage:
    """The page of an anchor from the rows of `window_sql`."""
    return await _page(rows, side, limit, below=sum(row["newer"] is False for row in rows))


async def _page(rows: Sequence[asyncpg.Record], side: Side, limit: int, *, below: int) -> MessagePage:
    """As many messages as the answer may have bytes for, and at least one where there is one.

    ``below`` of the rows are before the anchor; there may be more messages at both ends than there are rows.
    """
    sequence_nr, epoch = rows[0]["sequence_nr"], rows[0]["epoch"]
    if rows[0]["message_id"] is None:
        return MessagePage((), False, sequence_nr, epoch)
    # The rows after an anchor begin with the first that is wanted.
    order = list(taking_order(side, below=below, above=below, count=len(rows)))[:limit]
    taken: list[int] = []
    kept: list[MessageView] = []
    size = FRAME_BYTES
    async for message in messages_of([rows[number] for number in order], "place", "posted_at"):
        posted = PostedMessage(message.message_id, message.text, message.reply_message_id, message.to_account_ids)
        size += listed_size(message.created_at, message.sequence_nr, encoded_size(posted))
        if kept and size > PAGE_BYTES:
            break
        taken.append(order[len(kept)])
        kept.append(message)
    kept.sort(key=lambda each: (each.sequence_nr, each.index))
    return MessagePage(tuple(kept), _goes_on(rows, side, taken, below), sequence_nr, epoch)


def _goes_on(rows: Sequence[asyncpg.Record], side: Side, taken: Iterable[int], below: int) -> bool:
    """Whether there are messages beyond the page, also such as the statement left out."""
    if side is Side.BEFORE:
        matched: int = rows[0]["matched"]
        return below - min(taken) < matched
    newer = max(taken) + 1 - below
    last = rows[-1]
    return newer < (last["matched"] if last["newer"] else 0)


async def messages_of(rows: Sequence[asyncpg.Record], place: str, created_at: str) -> AsyncIterator[MessageView]:
    """Rows of the table thread_message, whose place and time have these names; the loop turns in between."""
    made = 0
    for row in rows:
        message = _message_of(row, row[place], row[created_at])
        made += 1 + len(message.to_account_ids)
        if made > _TURN_IDS:
            made = 0
            await asyncio.sleep(0)
        yield message


def _message_of(row: asyncpg.Record, sequence_nr: int, created_at: int) -> MessageView:
    reply = row["reply_message_id"]
    return MessageView(
        message_id=MessageId(text_of(row["message_id"])),
        sender_id=AccountId(text_of(row["sender_id"])),
        text=row["body"],
        reply_message_id=None if reply is None else MessageId(text_of(reply)),
        to_account_ids=tuple(AccountId(text_of(each)) for each in row["to_account_ids"] or ()),
        created_at=created_at,
        updated_at=created_at,
        sequence_nr=sequence_nr,
        index=row["index"],
    )


def text_of(stored: UUID) -> str:
    """An id as clients see it."""
    return ulid_text(stored.bytes)
