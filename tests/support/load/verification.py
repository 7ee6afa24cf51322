"""Reading everything back: is what was acknowledged there, once, and in order?

The checks use the public API alone, so they hold against one worker, a cluster, or whatever comes later behind the same
routes.  In order:

1. a sample of acknowledged commands is sent again, byte for byte: each must get its first answer, and change nothing;
2. every acknowledged message is listed under its id, with its text, at its sequence number, unless its sender removed
   it; an acknowledged removal removed;
3. no text and no message id is listed twice, and none that no client is known to have sent (a 503 that promised
"nothing stored", a refusal);
4. one client's messages in a thread are in the order in which it sent them;
5. a thread's sequence number is the number of commands acknowledged for it, plus at most those left unresolved; no two
   acknowledged commands share one.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from tests.support.load.client import Attempt, Client, Outcome
from tests.support.load.figures import Figures
from tests.support.load.record import Acknowledged, Record, Sent
from tests.support.load.target import parse_target

_CONCURRENCY = 16
_SHOWN = 50
"""Findings of one kind beyond these are only counted."""


class _Unreadable(Exception):
    """A thread could not be read before the deadline."""


class _Thread:
    """The record of one thread."""

    def __init__(self, created: Acknowledged) -> None:
        self.created = created
        self.acknowledged: list[Acknowledged] = [created]
        self.unresolved: list[Sent] = []


def _by_thread(record: Record) -> dict[str, _Thread]:
    threads = {done.thread_id: _Thread(done) for done in record.acknowledged if done.sent.operation == "create"}
    for done in record.acknowledged:
        if done.sent.operation != "create" and done.thread_id in threads:
            threads[done.thread_id].acknowledged.append(done)
    for sent in record.unresolved:
        if sent.thread_id in threads:
            threads[sent.thread_id].unresolved.append(sent)
    return threads


async def _insist(client: Client, deadline: float, *request: Any) -> Attempt:
    """Send until there is a definite answer; raises `_Unreadable` after the deadline."""
    while True:
        attempt = await client.send(*request)
        if attempt.outcome in (Outcome.ACCEPTED, Outcome.REFUSED):
            return attempt
        if asyncio.get_running_loop().time() > deadline:
            raise _Unreadable(f"{attempt.status or 'no answer'} {attempt.code}")
        await asyncio.sleep(min(0.2, attempt.retry_after_s))


async def _resend(client: Client, deadline: float, done: Acknowledged) -> str | None:
    sent = done.sent
    attempt = await _insist(client, deadline, "resend", "POST", sent.path, sent.body.encode(), sent.key)
    what = f"{sent.operation} {sent.ordinal} of client {sent.client} in {done.thread_id}, sent again"
    if attempt.outcome is Outcome.REFUSED:
        return f"{what}: {attempt.status} {attempt.code}, not its first answer"
    again = (attempt.document.get("sequenceNr"), tuple(attempt.document.get("messageIds", ())))
    if again != (done.sequence_nr, done.message_ids):
        return f"{what}: {again}, not its first answer {(done.sequence_nr, done.message_ids)}"
    return None


async def _messages(client: Client, deadline: float, thread_id: str, caller: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    cursor = ""
    while True:
        path = f"/v1/threads/{thread_id}/messages?{caller}&limit=1000{cursor}"
        attempt = await _insist(client, deadline, "verify", "GET", path)
        if attempt.outcome is Outcome.REFUSED:
            raise _Unreadable(f"{attempt.status} {attempt.code}")
        listed += attempt.document["result"]
        following = attempt.document.get("nextCursor")
        if following is None:
            return listed
        cursor = f"&cursor={following}"


def _account_for(thread_id: str, thread: _Thread, sequence_nr: int) -> list[str]:
    findings = []
    least, most = len(thread.acknowledged), len(thread.acknowledged) + len(thread.unresolved)
    if not least <= sequence_nr <= most:
        findings.append(
            f"{thread_id}: its sequence number is {sequence_nr}, but {least} commands were acknowledged"
            f" and {len(thread.unresolved)} left unresolved"
        )
    for number, times in Counter(done.sequence_nr for done in thread.acknowledged).items():
        if times > 1:
            findings.append(f"{thread_id}: {times} acknowledged commands were given the sequence number {number}")
        if number > sequence_nr:
            findings.append(f"{thread_id}: sequence number {number} was acknowledged, the thread is at {sequence_nr}")
    return findings


def _compare(thread_id: str, thread: _Thread, listed: Sequence[dict[str, Any]]) -> list[str]:
    findings = []
    adds = [done for done in thread.acknowledged if done.sent.operation == "add"]
    removed = {message_id for done in thread.acknowledged for message_id in done.sent.removes}
    perhaps_removed = {message_id for sent in thread.unresolved for message_id in sent.removes}
    expected_texts = {text for done in adds for text in done.sent.texts}
    perhaps_texts = {text for sent in thread.unresolved for text in sent.texts}

    for kind, values in (("id", [m["id"] for m in listed]), ("text", [m["body"] for m in listed])):
        findings += [
            f"{thread_id}: the message {kind} {v!r} is listed {n} times" for v, n in Counter(values).items() if n > 1
        ]
    findings += [
        f"{thread_id}: a message that no client is known to have sent: {message['body']!r}"
        for message in listed
        if message["body"] not in expected_texts and message["body"] not in perhaps_texts
    ]
    found = {message["id"]: message for message in listed}
    place = {message["id"]: index for index, message in enumerate(listed)}
    last: dict[int, int] = defaultdict(lambda: -1)
    for done in sorted(adds, key=lambda each: (each.sent.client, each.sent.ordinal)):
        who = f"add {done.sent.ordinal} of client {done.sent.client}"
        for message_id, text in zip(done.message_ids, done.sent.texts, strict=False):
            message = found.get(message_id)
            if message is None:
                if message_id not in removed and message_id not in perhaps_removed:
                    findings.append(f"{thread_id}: the acknowledged message {message_id} ({who}) is not there")
                continue
            if message_id in removed:
                findings.append(f"{thread_id}: the message {message_id} ({who}) was removed, and is still there")
            if message["body"] != text or message["senderId"] != done.sent.account_id:
                findings.append(f"{thread_id}: the message {message_id} ({who}) has another text or sender")
            if message["sequenceNr"] != done.sequence_nr:
                findings.append(
                    f"{thread_id}: the message {message_id} ({who}) is at {message['sequenceNr']},"
                    f" acknowledged at {done.sequence_nr}"
                )
            if place[message_id] <= last[done.sent.client]:
                findings.append(f"{thread_id}: the message {message_id} ({who}) comes before one sent earlier")
            last[done.sent.client] = max(last[done.sent.client], place[message_id])
    return findings


async def _check_thread(client: Client, deadline: float, thread_id: str, thread: _Thread) -> list[str]:
    # A worker may answer from the read model, which follows the journal.
    newest = max(done.sequence_nr for done in thread.acknowledged)
    caller = f"account_id={thread.created.sent.account_id}&min_sequence_nr={newest}"
    try:
        attempt = await _insist(client, deadline, "verify", "GET", f"/v1/threads/{thread_id}?{caller}")
        if attempt.outcome is Outcome.REFUSED:
            return [f"{thread_id}: an acknowledged thread answers {attempt.status} {attempt.code}"]
        listed = await _messages(client, deadline, thread_id, caller)
    except _Unreadable as unreadable:
        return [f"{thread_id}: cannot be read back: {unreadable}"]
    return _account_for(thread_id, thread, attempt.document["result"]["sequenceNr"]) + _compare(
        thread_id, thread, listed
    )


async def verify(
    urls: str | Sequence[str],
    record: Record,
    *,
    resend: int = 64,
    deadline_s: float = 60.0,
    allow_remote: bool = False,
) -> list[str]:
    """Read everything back and give the findings, a sentence each; an empty list means all is well.

    ``resend`` acknowledged commands, spread evenly over the run, are sent again first.  Answers of 503 are retried
    until ``deadline_s`` has passed.
    """
    targets = [parse_target(url, allow_remote=allow_remote) for url in ([urls] if isinstance(urls, str) else urls)]
    deadline = asyncio.get_running_loop().time() + deadline_s
    findings = [f"surprise: {what}" for what in record.surprises]
    findings += [
        f"refused: {no.sent.operation} {no.sent.ordinal} of client {no.sent.client} in {no.sent.thread_id}:"
        f" {no.status} {no.code}"
        for no in record.refused
    ]
    figures = Figures()
    clients = [Client(targets, figures, first=index) for index in range(_CONCURRENCY)]
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)

    async def resent(done: Acknowledged) -> list[str]:
        client = await free.get()
        try:
            finding = await _resend(client, deadline, done)
        except _Unreadable as unreadable:
            finding = f"{done.thread_id}: a command sent again has no answer: {unreadable}"
        finally:
            free.put_nowait(client)
        return [] if finding is None else [finding]

    async def checked(thread_id: str, thread: _Thread) -> list[str]:
        client = await free.get()
        try:
            return await _check_thread(client, deadline, thread_id, thread)
        finally:
            free.put_nowait(client)

    every = max(1, len(record.acknowledged) // resend) if resend else 0
    sample = record.acknowledged[::every] if every else ()
    for batch in (
        [resent(done) for done in sample],
        [checked(thread_id, thread) for thread_id, thread in _by_thread(record).items()],
    ):
        for found in await asyncio.gather(*batch):
            findings += found
    for client in clients:
        client.close()
    if len(findings) > _SHOWN:
        return [*findings[:_SHOWN], f"… and {len(findings) - _SHOWN} more findings"]
    return findings
