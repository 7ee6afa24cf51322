"""The chat mix: many clients in shared channels, every command keyed and retried until its outcome is known.

`drive` runs it and returns a `Record` of what was acknowledged; `verify` reads everything back and says what is wrong.
Both are made for chaos: whatever happens to the servers in between, a client keeps sending the same bytes with the same
key to one address after another until it gets a definite answer, or until the drive is over and ``grace_s`` has passed.

    record = await drive(urls, clients=64, until=stop, seed=7)      # kill things meanwhile, then stop.set()
    assert await verify(urls, record) == []

All commands are ones that the rules allow and that store exactly one event, so any refusal is a finding, and a thread's
sequence number can be accounted for.  With one seed the clients draw the same choices; what they are answered, and so
how far they get, is the cluster's affair.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence

import msgspec

from shard_worker.domain.ids import ulid_text
from tests.support.load.client import Attempt, Client, Outcome
from tests.support.load.figures import Figures
from tests.support.load.record import Acknowledged, Record, Recorder, Refused, Sent
from tests.support.load.target import Target, parse_target
from tests.support.load.verification import verify

__all__ = ["PACE_S", "Acknowledged", "Record", "Recorder", "Refused", "Sent", "drive", "verify"]

_WORDS = (
    "so",
    "it",
    "was",
    "that",
    "the",
    "river",
    "kept",
    "its",
    "own",
    "counsel",
    "and",
    "strangers",
    "knew",
    "where",
    "to",
)
_OPERATIONS = (("add", 60), ("read-messages", 12), ("read-thread", 10), ("remove", 8), ("join", 6), ("leave", 4))
PACE_S = 0.05
"""Pause of a client between two commands where the load is there to be disturbed: without one, 16 clients take both cores
from whatever is tested, and from the tests beside it."""
CHANNEL_MESSAGES = 2_000
"""A channel gets a new thread after this many messages: below the limit of 5,000 live ones."""


def random_ulid(rng: random.Random) -> str:
    """A ULID of 128 random bits."""
    return ulid_text(rng.getrandbits(128).to_bytes(16, "big"))


class _Channel:
    """A thread that some clients share; a full thread is replaced by a new one.  The owner alone changes the
    members.
    """

    def __init__(self, owner: int, accounts: Sequence[str]) -> None:
        self.owner = owner
        self.accounts = accounts
        self.thread_id: str | None = None
        self.messages = 0
        self.guests: list[str] = []
        self.lock = asyncio.Lock()


class _User:
    """One client: its account, its place, and what it remembers of its own messages."""

    def __init__(
        self,
        number: int,
        account_id: str,
        channel: _Channel,
        client: Client,
        recorder: Recorder,
        rng: random.Random,
        mint: random.Random,
    ) -> None:
        self.number = number
        self.account_id = account_id
        self.channel = channel
        self.client = client
        self.recorder = recorder
        self.rng = rng
        """Draws the choices, by the drive's seed."""
        self.mint = mint
        """Draws ids and keys, which must not meet those of an earlier run on the same database."""
        self.ordinal = 0
        self.own: deque[tuple[str, str]] = deque(maxlen=200)
        self.seen: dict[str, int] = {}

    async def step(self, give_up: asyncio.Event) -> None:
        """One choice of the mix, through to its settled outcome."""
        if self.channel.thread_id is None or self.channel.messages >= CHANNEL_MESSAGES:
            await self._open_thread(give_up)
            return
        thread_id = self.channel.thread_id
        operation = self.rng.choices([name for name, _ in _OPERATIONS], [weight for _, weight in _OPERATIONS])[0]
        if operation in ("join", "leave") and self.number != self.channel.owner:
            operation = "add"
        if operation == "leave" and not self.channel.guests:
            operation = "join"
        if operation == "remove" and not any(place == thread_id for place, _ in self.own):
            operation = "add"
        match operation:
            case "add":
                await self._add(thread_id, give_up)
            case "remove":
                mine = [pair for pair in self.own if pair[0] == thread_id]
                pair = self.rng.choice(mine)
                self.own.remove(pair)
                await self._command(
                    "remove", thread_id, "messages/remove", {"messageIds": [pair[1]]}, give_up, removes=(pair[1],)
                )
            case "join":
                guest = random_ulid(self.mint)
                done = await self._command("join", thread_id, "member-ids/join", {"accountIds": [guest]}, give_up)
                # Another client may have opened the channel's next thread meanwhile: there the guest is no member, and its
                # leave would change nothing.
                if done is not None and self.channel.thread_id == thread_id:
                    self.channel.guests.append(guest)
            case "leave":
                guest = self.channel.guests.pop(self.rng.randrange(len(self.channel.guests)))
                await self._command("leave", thread_id, "member-ids/leave", {"accountIds": [guest]}, give_up)
            case "read-thread":
                await self._read_thread(thread_id)
            case _:
                await self._read_messages(thread_id)

    async def _open_thread(self, give_up: asyncio.Event) -> None:
        async with self.channel.lock:
            if self.channel.thread_id is not None and self.channel.messages < CHANNEL_MESSAGES:
                return
            self.ordinal += 1
            key = f"{self.mint.getrandbits(64):016x}"
            thread_id = random_ulid(self.mint)
            owner = self.channel.accounts[0]
            body = {
                "accountId": self.account_id,
                "threadId": thread_id,
                "title": f"channel of {self.number}",
                "administratorIds": sorted({owner, self.account_id}),
                "memberIds": sorted(self.channel.accounts),
            }
            text = msgspec.json.encode(body).decode()
            sent = Sent(
                self.number, self.ordinal, "create", thread_id, self.account_id, "/v1/threads/create", text, key
            )
            if await self._settle(sent, give_up) is not None:
                self.channel.thread_id = thread_id
                self.channel.messages = 0
                self.channel.guests = []

    async def _add(self, thread_id: str, give_up: asyncio.Event) -> None:
        count = self.rng.choices((1, 2, 3), (8, 1, 1))[0]
        texts = tuple(
            f"{self.account_id}/{self.ordinal + 1}/{index} {' '.join(self.rng.choices(_WORDS, k=8))}"
            for index in range(count)
        )
        choose_ids = self.rng.random() < 0.3
        messages: list[dict[str, str]] = [{"text": text} for text in texts]
        if choose_ids:
            for message in messages:
                message["messageId"] = random_ulid(self.mint)
        done = await self._command("add", thread_id, "messages/add", {"messages": messages}, give_up, texts=texts)
        self.channel.messages += count
        if done is None:
            return
        self.own.extend((thread_id, message_id) for message_id in done.message_ids)
        if choose_ids and list(done.message_ids) != [message["messageId"] for message in messages]:
            self.recorder.surprise(f"add of client {self.number} in {thread_id}: chosen message ids were not kept")

    async def _command(
        self,
        operation: str,
        thread_id: str,
        tail: str,
        fields: dict[str, object],
        give_up: asyncio.Event,
        texts: tuple[str, ...] = (),
        removes: tuple[str, ...] = (),
    ) -> Acknowledged | None:
        self.ordinal += 1
        body = msgspec.json.encode({"accountId": self.account_id, **fields}).decode()
        key = f"{self.mint.getrandbits(64):016x}"
        path = f"/v1/threads/{thread_id}/{tail}"
        sent = Sent(self.number, self.ordinal, operation, thread_id, self.account_id, path, body, key, texts, removes)
        return await self._settle(sent, give_up)

    async def _settle(self, sent: Sent, give_up: asyncio.Event) -> Acknowledged | None:
        """Send until the outcome is definite.  A command that never left this machine is simply forgotten."""
        raw = sent.body.encode()
        possible = False
        attempts = 0
        while True:
            attempts += 1
            attempt = await self.client.send(sent.operation, "POST", sent.path, raw, sent.key)
            match attempt.outcome:
                case Outcome.ACCEPTED:
                    done = self.recorder.acknowledge(sent, attempt.document, attempts)
                    if done is not None:
                        self._saw(sent.thread_id, done.sequence_nr)
                    return done
                case Outcome.REFUSED:
                    self.recorder.refuse(sent, attempt.status or 0, attempt.code)
                    return None
                case Outcome.UNKNOWN:
                    possible = True
                    self._look_at(attempt, sent.operation)
                case Outcome.NOT_NOW | Outcome.NOT_SENT:
                    pass
            if give_up.is_set():
                if possible:
                    self.recorder.leave_unresolved(sent)
                return None
            await self._pause(attempt, give_up)

    async def _pause(self, attempt: Attempt, give_up: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(min(0.5, attempt.retry_after_s) * self.rng.uniform(0.5, 1.5)):
                await give_up.wait()
        except TimeoutError:
            pass

    def _look_at(self, attempt: Attempt, operation: str) -> None:
        if attempt.status == 500:
            self.recorder.surprise(f"{operation} of client {self.number}: 500 {attempt.code}")

    def _saw(self, thread_id: str, sequence_nr: int) -> None:
        self.seen[thread_id] = max(self.seen.get(thread_id, 0), sequence_nr)

    def _known(self, thread_id: str) -> int:
        """How new an answer must be, whether the owner gives it or the read model; the channel's threads are there."""
        return max(1, self.seen.get(thread_id, 0))

    async def _read_thread(self, thread_id: str) -> None:
        known = self._known(thread_id)
        attempt = await self.client.send(
            "read-thread", "GET", f"/v1/threads/{thread_id}?account_id={self.account_id}&min_sequence_nr={known}"
        )
        self._look_at(attempt, "read-thread")
        if attempt.outcome is Outcome.REFUSED:
            self.recorder.surprise(f"read-thread of {thread_id}: {attempt.status} {attempt.code}")
        if attempt.outcome is not Outcome.ACCEPTED:
            return
        result = attempt.document.get("result")
        sequence_nr = result.get("sequenceNr") if isinstance(result, dict) else None
        if not isinstance(sequence_nr, int) or sequence_nr < known:
            self.recorder.surprise(f"a stale read of {thread_id}: sequence number {sequence_nr}, not yet {known}")
        else:
            self._saw(thread_id, sequence_nr)

    async def _read_messages(self, thread_id: str) -> None:
        attempt = await self.client.send(
            "read-messages",
            "GET",
            f"/v1/threads/{thread_id}/messages?account_id={self.account_id}&limit=50"
            f"&min_sequence_nr={self._known(thread_id)}",
        )
        self._look_at(attempt, "read-messages")
        if attempt.outcome is Outcome.REFUSED:
            self.recorder.surprise(f"read-messages of {thread_id}: {attempt.status} {attempt.code}")
        if attempt.outcome is not Outcome.ACCEPTED:
            return
        listed = attempt.document.get("result")
        if not isinstance(listed, list):
            self.recorder.surprise(f"read-messages of {thread_id}: no list in the answer")
            return
        positions = [message.get("sequenceNr") for message in listed]
        if positions != sorted(positions) or len({message.get("id") for message in listed}) != len(listed):
            self.recorder.surprise(f"read-messages of {thread_id}: a page out of order, or with a message twice")


def _users(
    targets: Sequence[Target], clients: int, seed: int, recorder: Recorder, figures: Figures, timeout_s: float
) -> list[_User]:
    rng = random.Random(seed)
    fresh = random.SystemRandom()
    channels = max(1, clients // 8)
    numbers = [range(channel, clients, channels) for channel in range(channels)]
    users = []
    for members in numbers:
        accounts = [random_ulid(fresh) for _ in members]
        channel = _Channel(members[0], accounts)
        for number, account_id in zip(members, accounts, strict=True):
            line = Client(targets, figures, first=rng.randrange(len(targets)), timeout_s=timeout_s)
            choices = random.Random(f"{seed}/{number}")
            mint = random.Random(fresh.getrandbits(128))
            users.append(_User(number, account_id, channel, line, recorder, choices, mint))
    return users


async def drive(
    urls: str | Sequence[str],
    *,
    clients: int = 64,
    duration_s: float | None = None,
    until: asyncio.Event | None = None,
    seed: int = 0,
    grace_s: float = 30.0,
    pause_s: float = 0.0,
    ramp_s: float = 0.0,
    timeout_s: float = 10.0,
    recorder: Recorder | None = None,
    figures: Figures | None = None,
    allow_remote: bool = False,
) -> Record:
    """Chat with ``clients`` clients until ``duration_s`` passed or ``until`` is set; return a `Record` of the answers.

    When the end comes each client settles the command it is at, for at most ``grace_s``; what is still unknown then is
    in ``Record.unresolved``.  ``recorder`` and ``figures`` may be the caller's own, to look at while it runs.
    """
    if duration_s is None and until is None:
        raise ValueError("duration_s or until: one of the two must end the drive")
    if clients < 1:
        raise ValueError("clients: at least one is needed")
    targets = [parse_target(url, allow_remote=allow_remote) for url in ([urls] if isinstance(urls, str) else urls)]
    recorder = recorder if recorder is not None else Recorder(seed=seed, clients=clients)
    figures = figures if figures is not None else Figures()
    stop = until if until is not None else asyncio.Event()
    give_up = asyncio.Event()
    users = _users(targets, clients, seed, recorder, figures, timeout_s)

    async def live(user: _User, delay_s: float) -> None:
        try:
            await _wait(stop, delay_s)
            while not stop.is_set() and not figures.is_spent():
                await user.step(give_up)
                await _wait(stop, pause_s * user.rng.uniform(0.5, 1.5))
        finally:
            user.client.close()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(live(user, ramp_s * index / clients), name=f"chat client {user.number}")
            for index, user in enumerate(users)
        ]
        await _first(stop, tasks, duration_s)
        if duration_s is not None:
            stop.set()
        await asyncio.wait(tasks, timeout=grace_s)
        give_up.set()
    figures.end()
    return recorder.record()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    if seconds <= 0 or event.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def _first(stop: asyncio.Event, tasks: Sequence["asyncio.Task[None]"], timeout_s: float | None) -> None:
    """Until the event is set, all clients are done, or the time is over."""
    ends = {
        asyncio.create_task(stop.wait(), name="the end of the drive"),
        asyncio.create_task(asyncio.wait(tasks), name="all clients are done"),
    }
    try:
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
