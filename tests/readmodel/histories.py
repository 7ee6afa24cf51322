"""Random histories of several threads, and the read model that they must give: folded by the domain, not by the projection."""

import random
from typing import Any

import asyncpg

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
from shard_worker.domain.decide import Unchanged, decide
from shard_worker.domain.events import Event, MessagesAdded, ThreadCreated, ThreadDestroyed
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, shard_of, ulid_text, ulid_uuid
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal
from shard_worker.domain.thread import Thread
from tests.support.journal_writer import SHARDS, new_thread

_LIMITS = Limits(messages=50, administrators=5, members=8)


class RandomThread:
    """One thread with its history so far."""

    def __init__(self, rng: random.Random) -> None:
        self.thread_id: ThreadId = new_thread()
        self.history: list[Event] = []
        self.state: Thread | None = None
        self._rng = rng
        self._people = [AccountId(ulid_text(rng.randbytes(16))) for _ in range(6)]

    def _command(self) -> Command:
        rng, me, now = self._rng, self._rng.choice(self._people), 0
        some = tuple(rng.sample(self._people, rng.randint(1, 3)))
        if self.state is None:
            return CreateThread(
                self.thread_id, me, "title", None, None, True, some, tuple(rng.sample(self._people, 2)), now
            )
        live = list(self.state.messages)
        match rng.choices(range(7), (40, 10, 10, 10, 10, 10, 1))[0]:
            case 0:
                count = rng.randint(1, 3)
                messages = tuple(
                    NewMessage(
                        MessageId(ulid_text(rng.randbytes(16))),
                        rng.choice(("", "text", "ä\U0001f600")),
                        rng.choice([None, *live[-2:]]),
                        tuple(rng.sample(self._people, rng.choice((0, 0, 1, 2)))),
                    )
                    for _ in range(count)
                )
                return AddMessages(self.thread_id, me, messages, now)
            case 1:
                mine = [each for each in live if self.state.messages[each].sender_id == me]
                return RemoveMessages(self.thread_id, me, tuple(mine[:2]), now)
            case 2:
                return JoinMemberIds(self.thread_id, me, some, now)
            case 3:
                return LeaveMemberIds(self.thread_id, me, some, now)
            case 4:
                return JoinAdministratorIds(self.thread_id, me, some, now)
            case 5:
                return LeaveAdministratorIds(self.thread_id, me, some, now)
            case _:
                return DestroyThread(self.thread_id, me, now)

    def next_event(self, now: int) -> Event | None:
        """One more event, decided and folded by the domain; None when the thread is at its end."""
        for _ in range(100):
            outcome = decide(self.state, self._command(), now, _LIMITS)
            if not isinstance(outcome, Refusal | Unchanged):
                self.history.append(outcome)
                self.state = evolve(self.state, outcome, len(self.history))
                return outcome
        return None

    # --- what the read model must hold

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """By table, the thread's rows as `stored_rows` reads them."""
        state = self.state
        if state is None:
            return {"thread": [], "thread_account": [], "thread_message": [], "thread_mention": []}
        uuid = ulid_uuid(self.thread_id)
        created = self.history[0]
        assert isinstance(created, ThreadCreated)
        activity = max(event.at for event in self.history if isinstance(event, ThreadCreated | MessagesAdded))
        destroyed = next((event.at for event in self.history if isinstance(event, ThreadDestroyed)), None)
        thread = (
            *(uuid, shard_of(self.thread_id, SHARDS), len(self.history), ulid_uuid(state.creator_id)),
            *(created.title, created.at, self.history[-1].at, activity, destroyed),
        )
        accounts: dict[AccountId, int | None] = {}
        folded: Thread | None = None
        for seq_nr, event in enumerate(self.history, 1):
            before = set() if folded is None else {*folded.administrators, *folded.members}
            folded = evolve(folded, event, seq_nr)
            after = {*folded.administrators, *folded.members}
            accounts |= dict.fromkeys(after)
            accounts |= dict.fromkeys(before - after, seq_nr)
        messages, mentions = [], []
        for seq_nr, event in enumerate(self.history, 1):
            if not isinstance(event, MessagesAdded):
                continue
            for index, posted in enumerate(event.messages):
                addressees = [ulid_uuid(each) for each in posted.to_account_ids]
                messages.append(
                    (
                        *(uuid, seq_nr, index, ulid_uuid(posted.message_id), ulid_uuid(event.sender_id), posted.text),
                        None if posted.reply_message_id is None else ulid_uuid(posted.reply_message_id),
                        *(addressees or None, event.at, posted.message_id not in state.messages),
                    )
                )
                mentions += [(each, event.at, uuid, seq_nr, index) for each in addressees]
        return {
            "thread": [thread],
            "thread_account": sorted(
                (
                    ulid_uuid(account_id),
                    uuid,
                    account_id in state.administrators,
                    account_id in state.members,
                    ended,
                )
                for account_id, ended in accounts.items()
            ),
            "thread_message": sorted(messages, key=lambda row: row[:3]),
            "thread_mention": sorted(mentions),
        }


_COLUMNS = {
    "thread": "thread_id, shard_id, sequence_nr, creator_id, title, created_at, updated_at, activity_at, destroyed_at",
    "thread_account": "account_id, thread_id, administrator, member, until_nr",
    "thread_message": "thread_id, sequence_nr, index, message_id, sender_id, body, reply_message_id, to_account_ids,"
    " created_at, removed",
    "thread_mention": "account_id, created_at, thread_id, sequence_nr, index",
}


async def stored_rows(connection: asyncpg.Connection, thread_id: ThreadId, generation: int = 1) -> dict[str, list[Any]]:
    """By table, the rows of a thread in the read model."""
    found = {}
    for table, columns in _COLUMNS.items():
        place = f"readmodel_{generation:d}.{table}"
        rows = await connection.fetch(f"SELECT {columns} FROM {place} WHERE thread_id = $1", ulid_uuid(thread_id))
        found[table] = sorted((tuple(row) for row in rows), key=lambda row: tuple(map(str, row[:3])))
    return found


def in_order(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Rows in the order of `stored_rows`."""
    return {table: sorted(each, key=lambda row: tuple(map(str, row[:3]))) for table, each in rows.items()}
