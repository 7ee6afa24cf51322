"""Threads in memory, by the real rules: they replace the region behind the gateway in its tests.

Keys, texts and pages are kept in plain dicts; one answer can be put in place of the next real one.
"""

from collections.abc import Callable

from shard_worker.contract import (
    AccountIdPage,
    Answer,
    CommandRequest,
    Done,
    Existence,
    ExistsThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    LocateMessage,
    MessageLocation,
    MessagePage,
    MessageView,
    Query,
    ReadThread,
    Request,
    StreamRequest,
    ThreadView,
)
from shard_worker.domain.commands import CreateThread
from shard_worker.domain.decide import NOT_FOUND, Unchanged, decide, message_ids_of, refuse_reader
from shard_worker.domain.events import MessagesAdded
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.limits import Limits
from shard_worker.domain.message_window import Side
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.domain.thread import Thread
from shard_worker.gateway.public.service import AnswerSlot

NOW_MS = 1_700_000_000_000
EPOCH = 4
"""Of every event."""


class MemoryThreads:
    """A `ThreadService` without a journal."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.threads: dict[ThreadId, Thread] = {}
        self.texts: dict[MessageId, tuple[str | None, tuple[AccountId, ...]]] = {}
        self.keys: dict[tuple[ThreadId, bytes], tuple[bytes | None, Done]] = {}
        self.asked: list[Request] = []
        self.instead: Callable[[Request], Answer | None] = lambda _: None
        """Gives an answer in place of the real one, or None."""

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """Answer at once."""
        del thread_id
        slot.set_result(self._answer(request, budget_s))
        return True

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """Answer at once."""
        return self._answer(request, budget_s)

    def _answer(self, request: Request, budget_s: float) -> Answer:
        assert budget_s > 0
        self.asked.append(request)
        instead = self.instead(request)
        if instead is not None:
            return instead
        if isinstance(request, StreamRequest):
            return NOT_FOUND  # there is no journal to follow, and no test waits for an endless answer
        return self._command(request) if isinstance(request, CommandRequest) else self._query(request)

    @property
    def last_command(self) -> CommandRequest:
        """The newest command that arrived here."""
        return next(request for request in reversed(self.asked) if isinstance(request, CommandRequest))

    def _command(self, request: CommandRequest) -> Answer:
        command = request.command
        state = self.threads.get(command.thread_id)
        if request.key_hash is not None:
            known = self.keys.get((command.thread_id, request.key_hash))
            if known is not None:
                same = known[0] == request.body_hash
                if not same:
                    return Refusal(RefusalCode.IDEMPOTENCY_KEY_REUSED, "the key was used before")
                return Done(known[1].sequence_nr, known[1].message_ids, True, EPOCH)
        decided = decide(state, command, NOW_MS, self.limits)
        match decided:
            case Refusal():
                return decided
            case Unchanged(sequence_nr, message_ids, replayed):
                return Done(sequence_nr, message_ids, replayed, EPOCH)
        sequence_nr = 1 if isinstance(command, CreateThread) or state is None else state.sequence_nr + 1
        self.threads[command.thread_id] = evolve(state, decided, sequence_nr)
        if isinstance(decided, MessagesAdded):
            for message in decided.messages:
                self.texts[message.message_id] = (message.text, message.to_account_ids)
        done = Done(sequence_nr, message_ids_of(decided), False, EPOCH)
        if request.key_hash is not None:
            self.keys[command.thread_id, request.key_hash] = (request.body_hash, done)
        return done

    def _query(self, query: Query) -> Answer:
        state = self.threads.get(query.thread_id)
        refusal = refuse_reader(state, query.account_id)
        if isinstance(query, ExistsThread):
            return Existence(refusal is None)
        if refusal is not None:
            return refusal
        assert state is not None  # an unknown thread was refused
        match query:
            case LocateMessage():
                live = state.messages.get(query.message_id)
                return MessageLocation(None if live is None else (live.sequence_nr, live.index), state.sequence_nr)
            case ReadThread():
                return ThreadView(
                    query.thread_id,
                    state.creator_id,
                    state.parent_thread_id,
                    state.title,
                    state.remarks,
                    state.created_at,
                    state.updated_at,
                    state.sequence_nr,
                    EPOCH,
                )
            case GetAdministratorIds():
                return _accounts(query, state.administrators, state.sequence_nr)
            case GetMemberIds():
                return _accounts(query, state.members, state.sequence_nr)
            case GetMessages():
                return self._messages(query, state)
            case GetMessageWindow():
                return self._window(query, state)

    def _views(self, state: Thread) -> list[MessageView]:
        return [
            MessageView(
                message_id,
                live.sender_id,
                self.texts[message_id][0],
                live.reply_message_id,
                self.texts[message_id][1],
                live.created_at,
                live.created_at,
                live.sequence_nr,
                live.index,
            )
            for message_id, live in state.messages.items()
        ]

    def _messages(self, query: GetMessages, state: Thread) -> MessagePage:
        views = self._views(state)
        after = query.after
        if after is not None:
            views = [view for view in views if (view.sequence_nr, view.index) > after]
        views = views[query.offset :]
        return MessagePage(tuple(views[: query.limit]), len(views) > query.limit, state.sequence_nr, EPOCH)

    def _window(self, query: GetMessageWindow, state: Thread) -> Answer:
        """Without the bound of an answer's bytes."""
        place = query.place
        if place is None:
            live = None if query.anchor is None else state.messages.get(query.anchor)
            if live is None:
                return MessageLocation(None, state.sequence_nr)
            place = live.sequence_nr, live.index
        views = self._views(state)
        older = [view for view in views if (view.sequence_nr, view.index) < place]
        newer = [view for view in views if (view.sequence_nr, view.index) > place]
        own = [view for view in views if (view.sequence_nr, view.index) == place]
        return naive_page(older, own, newer, query.side, query.limit, state.sequence_nr)


def naive_page(
    older: list[MessageView],
    own: list[MessageView],
    newer: list[MessageView],
    side: Side,
    limit: int,
    sequence_nr: int,
) -> MessagePage:
    """The page as the contract counts it: of the messages before the anchor, itself when it is live, and those after it."""
    match side:
        case Side.BEFORE:
            return MessagePage(tuple(older[-limit:]), len(older) > limit, sequence_nr, EPOCH)
        case Side.AFTER:
            return MessagePage(tuple(newer[:limit]), len(newer) > limit, sequence_nr, EPOCH)
        case Side.AROUND:
            before = min((limit - 1) // 2, len(older))
            after = min(limit - len(own) - before, len(newer))
            before = min(limit - len(own) - after, len(older))
            page = (*older[len(older) - before :], *own, *newer[:after])
            return MessagePage(page, len(newer) > after, sequence_nr, EPOCH)


def _accounts(
    query: GetAdministratorIds | GetMemberIds, accounts: dict[AccountId, None], sequence_nr: int
) -> AccountIdPage:
    ids = sorted(account for account in accounts if query.after is None or account > query.after)[query.offset :]
    return AccountIdPage(tuple(ids[: query.limit]), len(ids) > query.limit, sequence_nr, EPOCH)
