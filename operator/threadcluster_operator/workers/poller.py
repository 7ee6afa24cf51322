"""Asks the workers of all clusters in the background, and keeps their last answers with their age.

A reconcile never waits for a worker: it takes what `ClusterPoll` knows, and is called again by ``wake`` when the answers
changed.  `threadcluster_operator.workers.pacing` says when which worker is asked, and
`threadcluster_operator.planning.freshness` what an answer is worth.  Workers and shards are read from one worker, and again
when the digest of a newer answer differs.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from shard_worker.contract_internal import OwnershipDigest, OwnershipResponse
from shard_worker.tasks import BackgroundTasks
from threadcluster_operator.planning.freshness import (
    SILENCE_S,
    Outage,
    Reading,
    Silence,
    Verdict,
    counts,
    judge,
    reading_of_digest,
    reading_of_ownership,
    supersedes,
)
from threadcluster_operator.workers.client import InvalidAnswer, SecretMismatch
from threadcluster_operator.workers.pacing import Asked, Pace, at_once, pause_s
from threadcluster_operator.workers.protocol import PolledWorkers
from threadcluster_operator.workers.slots import FairSlots, Owner

log = logging.getLogger(__name__)

_SLOTS: Final = 256
"""Requests to workers that are under way at the same time; each holds a socket."""
_LOADS_S: Final = 10.0
"""Time after which workers and shards are read again though nothing changed: the digest does not show loads."""
_GAINED_S: Final = 0.05
"""How long new owners have to say that they serve their shards before the cluster is looked at: several round trips."""
_WAKE_LATE_S: Final = 0.1
"""How long after an answer ends to count the cluster is looked at: a timer may be early by the clock's resolution."""

Wake = Callable[[Owner], None]
"""Has a cluster looked at, soon."""


class Watched(NamedTuple):
    """One worker to ask."""

    address: str
    ready: bool
    """Its pod is ready, and is not being deleted."""


@dataclass(slots=True, kw_only=True)
class _Worker:
    watched: Watched
    due_at: float
    sent_at: float = -math.inf
    unready_since: float | None = None
    failures: int = 0
    asking: bool = False
    again: bool = False
    """To be asked again at once: an answer is needed to a question that is sent later than the one under way."""
    hurried: bool = False
    """A look waits for the next answer."""
    reading: Reading | None = None
    failing_since: float | None = None
    mismatched: bool = False
    """The worker proved itself by another secret than ours when it was asked last."""
    fault: str = ""
    """The fault of the last answer, which was not taken."""
    fault_since: float | None = None

    @property
    def silence(self) -> Silence | None:
        """Since when no answer of the worker counts; None while they do."""
        since = self.fault_since if self.fault_since is not None else self.failing_since
        return None if since is None else Silence(since, self.fault)


class Latest(NamedTuple):
    """The knowledge of a cluster's workers now."""

    answer: OwnershipResponse | None
    """Workers and shards."""
    readings: Mapping[str, Reading]
    """The last answer of each worker."""
    verdict: Verdict
    current: bool
    """The newest answer that counts has the digest of ``answer``."""
    silent_since: float | None
    """When the first question was sent since which no worker of a ready pod answers; None while one does, or was not asked."""
    mismatched: bool
    """A worker of a ready pod proved itself by another secret than ours when it was asked last."""
    begun: bool
    """Every worker of a ready pod was asked, or should have been by now: what is not known yet is unknown."""
    silent: Mapping[str, Silence]
    """The workers of ready pods of which no answer counts."""


class ClusterPoll:
    """The questions to the workers of one cluster; `WorkerPolls.watch` makes and updates it."""

    def __init__(self, owner: Owner, slots: FairSlots, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self._owner = owner
        self._slots = slots
        self._wake = wake
        self._clock = clock
        self._made_at = clock()
        self._client: PolledWorkers | None = None
        self._pace = Pace.WAITING
        self._workers: dict[str, _Worker] = {}
        self._reference: str | None = None
        self._answer: OwnershipResponse | None = None
        self._answer_reading: Reading | None = None
        self._answer_at = -math.inf
        self._confirmed_at = -math.inf
        """When the last question was sent whose answer had the digest of `_answer_reading`."""
        self._reading_all = False
        self._outage: Outage | None = None
        self._changed = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._task: asyncio.Task[None] | None = None

    def update(self, client: PolledWorkers, watched: Mapping[str, Watched]) -> None:
        """Ask these workers from now on; a worker at another address is another process, and is asked at once."""
        now = self._clock()
        self._client = client
        for name in self._workers.keys() - watched.keys():
            del self._workers[name]
        for name, given in watched.items():
            known = self._workers.get(name)
            if known is None or known.watched.address != given.address:
                known = self._workers[name] = _Worker(watched=given, due_at=now)
            if given.ready and not known.watched.ready:
                known.failures, known.due_at = 0, min(known.due_at, now)
            known.watched = given
            known.unready_since = None if given.ready else known.unready_since or now
        if self._task is None or self._task.done():
            self._task = self._tasks.spawn(self._run(), name=f"poll-{'/'.join(self._owner)}", essential=True)
        self._changed.set()

    def set_pace(self, pace: Pace) -> None:
        """How soon changes are to be seen from now on."""
        if pace is self._pace:
            return
        self._pace = pace
        now = self._clock()
        for name, worker in self._workers.items():
            worker.due_at = min(worker.due_at, max(now, worker.sent_at + self._pause_s(name, worker, now)))
        self._changed.set()

    def hurry(self) -> None:
        """Ask the reference at once, and have the cluster looked at then: those answers that there are, are too old."""
        worker = self._workers.get(self._reference or "")
        if worker is not None:
            worker.hurried = True
            self._ask_again(worker)

    def latest(self) -> Latest:
        """The knowledge of now; waits for nothing."""
        now = self._clock()
        readings = {name: each.reading for name, each in self._workers.items() if each.reading is not None}
        verdict = judge(readings.values(), now, self._outage)
        self._outage = verdict.outage
        newest = max(
            (each for each in readings.values() if counts(each, now)), key=lambda each: each.order, default=None
        )
        kept = self._answer_reading
        current = newest is not None and kept is not None and _same(newest, kept)
        mismatched = any(each.mismatched and each.watched.ready for each in self._workers.values())
        silent = {name: each.silence for name, each in self._workers.items() if each.watched.ready and each.silence}
        begun = self._has_begun(now)
        return Latest(self._answer, readings, verdict, current, self._silent_since(), mismatched, begun, silent)

    async def close(self) -> None:
        """End the questions."""
        await self._tasks.close()

    # --- asking

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            self._ask_due(now)
            waiting = [worker.due_at for worker in self._workers.values() if not worker.asking]
            # With every slot of the cluster in use the end of a question goes on; a due worker must not spin here.
            wait_s = None if not waiting or self._full() else max(0.0, min(waiting) - now)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _ask_due(self, now: float) -> None:
        due = [(name, each) for name, each in self._workers.items() if not each.asking and each.due_at <= now]
        for name, worker in sorted(due, key=lambda each: (not each[1].watched.ready, each[1].due_at, each[0])):
            if self._full():
                return
            worker.asking = True
            self._tasks.spawn(self._ask(name, worker), name=f"ask-{name}")

    def _full(self) -> bool:
        asking = sum(1 for worker in self._workers.values() if worker.asking)
        answered = any(worker.reading is not None and not worker.failures for worker in self._workers.values())
        silent = not answered and any(worker.failures for worker in self._workers.values())
        return asking >= at_once(answered=answered, silent=silent)

    async def _ask(self, name: str, worker: _Worker) -> None:
        """Ask one worker for its own state, and for everything if that changed."""
        client, answered = self._client, False
        assert client is not None  # set with the workers
        try:
            async with self._slots.slot(self._owner):
                worker.sent_at = self._clock()
                answer = await client.probe(name)
                if self._workers.get(name) is not worker:
                    return  # another process by now, or none
                if answer is None:
                    worker.fault, worker.fault_since = "", None
                    self._silent(worker)
                    return
                if isinstance(answer, OwnershipDigest):
                    fresh = reading_of_digest(answer, worker.sent_at, worker.reading)
                else:
                    fresh = reading_of_ownership(name, answer, worker.sent_at, worker.reading)
                    self._keep(name, answer, fresh)
                self._answered(name, worker, fresh)
                answered = True
                if isinstance(answer, OwnershipDigest) and self._needs_all(name, fresh):
                    await self._read_all(client, name, worker)
                worker.fault, worker.fault_since = "", None
        except SecretMismatch:
            worker.mismatched = True
            self._silent(worker)
        except InvalidAnswer as error:
            self._not_taken(worker, str(error), answered=answered)
        except Exception as error:
            # Whatever an answer contains, it is this cluster's trouble alone, and the worker is asked again.
            log.exception("answer of a worker not taken", extra={"namespace": self._owner[0], "worker": name})
            self._not_taken(worker, f"it is not understood ({type(error).__name__})", answered=answered)
        finally:
            now = self._clock()
            worker.due_at = now if worker.again else worker.sent_at + self._pause_s(name, worker, now)
            worker.asking = worker.again = False
            self._changed.set()

    def _not_taken(self, worker: _Worker, fault: str, *, answered: bool) -> None:
        """An answer is none of a worker's; ``answered``: the one before it, to the same look, was."""
        if worker.fault_since is None:
            worker.fault_since = worker.sent_at
            self._wake_at(worker.sent_at + SILENCE_S)
        worker.fault = fault
        if not answered:
            self._silent(worker)

    def _wake_at(self, when: float) -> None:
        after_s = max(0.0, when - self._clock()) + _WAKE_LATE_S
        asyncio.get_running_loop().call_later(after_s, self._wake)

    def _silent(self, worker: _Worker) -> None:
        worker.failures += 1
        if worker.failing_since is None:
            worker.failing_since = worker.sent_at
            # When the last answer ends to count, nothing else may have the cluster looked at.
            self._wake_at(worker.sent_at + SILENCE_S)
        if worker.reading is not None and worker.reading.failing_since is None:
            worker.reading = worker.reading._replace(failing_since=worker.sent_at)
        self._choose_reference()

    def _answered(self, name: str, worker: _Worker, fresh: Reading) -> None:
        before, worker.reading = worker.reading, fresh
        was_failing, worker.failing_since, worker.failures = worker.failing_since, None, 0
        worker.mismatched = False
        if was_failing is not None and not any(
            each is not worker and each.reading is not None and not each.failures for each in self._workers.values()
        ):
            self._ask_all()  # what kept this worker from answering may have kept the others too
        believed = counts(fresh, fresh.sent_at)
        if name == self._reference and not believed and (before is None or counts(before, before.sent_at)):
            self._ask_all()  # is it this worker alone, or the database?
        self._choose_reference()
        kept = self._answer_reading
        if believed and kept is not None and _same(kept, fresh):
            self._confirmed_at = fresh.sent_at
        hurried, worker.hurried = worker.hurried and not worker.again, worker.hurried and worker.again
        if hurried or before is None or was_failing is not None or _differs(before, fresh):
            self._wake()

    def _ask_again(self, worker: _Worker) -> None:
        """Ask a worker now; if it is being asked, the question may have been sent before what the answer is to show."""
        worker.due_at, worker.again = self._clock(), worker.asking
        self._changed.set()

    def _ask_all(self) -> None:
        now = self._clock()
        for each in self._workers.values():
            each.due_at = min(each.due_at, now)

    def _choose_reference(self) -> None:
        """The worker whose answers show changes: the one before while it serves for that, else the first that does."""

        def serves(worker: _Worker | None) -> bool:
            reading = None if worker is None else worker.reading
            return (
                worker is not None
                and worker.watched.ready
                and not worker.failures
                and reading is not None
                and reading.member
                and counts(reading, reading.sent_at)
            )

        if serves(self._workers.get(self._reference or "")):
            return
        able = [name for name, worker in self._workers.items() if serves(worker)]
        answering = [name for name, worker in self._workers.items() if worker.reading and not worker.failures]
        before, self._reference = self._reference, min(able or answering, default=None)
        if self._reference is not None and self._reference != before:
            self._workers[self._reference].due_at = self._clock()  # its last answer is as old as those of the others
            self._changed.set()

    def _needs_all(self, name: str, fresh: Reading) -> bool:
        if self._reading_all or not fresh.digest or not counts(fresh, fresh.sent_at):
            return False
        kept = self._answer_reading
        if kept is None:
            return True
        if not _same(kept, fresh):
            return supersedes(fresh, kept, self._confirmed_at)
        return name == self._reference and self._clock() - self._answer_at > _LOADS_S

    async def _read_all(self, client: PolledWorkers, name: str, worker: _Worker) -> None:
        self._reading_all = True
        try:
            sent_at = self._clock()
            answer = await client.ownership_of(name)
        finally:
            self._reading_all = False
        if answer is not None and self._workers.get(name) is worker:
            reading = worker.reading = reading_of_ownership(name, answer, sent_at, worker.reading)
            self._keep(name, answer, reading)

    def _keep(self, by: str, answer: OwnershipResponse, reading: Reading) -> None:
        """Take workers and shards over, unless they were read before those that are here."""
        kept = self._answer_reading
        changed = kept is None or not _same(kept, reading) or not reading.digest
        if (
            reading.claimed_by_other is not None
            or not answer.shards
            or (kept is not None and changed and not supersedes(reading, kept, self._confirmed_at))
        ):
            return
        gained = _gained(self._answer, answer)
        self._answer, self._answer_reading = answer, reading
        self._answer_at, self._confirmed_at = self._clock(), reading.sent_at
        if not changed:
            return
        gained.discard(by)  # it has just answered for itself
        for name in gained & self._workers.keys():
            self._ask_again(self._workers[name])
        if gained:
            # A little later: the new owners' last answers do not show yet that they serve what they own.
            asyncio.get_running_loop().call_later(_GAINED_S, self._wake)
        else:
            self._wake()

    def _pause_s(self, name: str, worker: _Worker, now: float) -> float:
        unready_for_s = 0.0 if worker.unready_since is None else now - worker.unready_since
        asked = Asked(worker.watched.ready, unready_for_s, worker.failures)
        return pause_s(asked, self._pace, reference=name == self._reference, workers=len(self._workers))

    def _has_begun(self, now: float) -> bool:
        since = self._silent_since()
        if self._answer is None and since is not None and since - self._made_at < SILENCE_S:
            return now - since >= SILENCE_S  # silent from the first question on: until then it may be a lost packet
        if now - self._made_at >= SILENCE_S:
            return True
        ready = [worker for worker in self._workers.values() if worker.watched.ready]
        asked = all(worker.reading is not None or worker.failures for worker in ready)
        return asked and (self._answer is not None or all(worker.failures for worker in ready))

    def _silent_since(self) -> float | None:
        ready = [worker for worker in self._workers.values() if worker.watched.ready]
        since = [worker.failing_since for worker in ready]
        known = [each for each in since if each is not None]
        return min(known) if known and len(known) == len(since) else None


class WorkerPolls:
    """The questions to the workers of all clusters."""

    def __init__(self, wake: Wake, clock: Callable[[], float] = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._slots = FairSlots(_SLOTS)
        self._polls: dict[Owner, ClusterPoll] = {}
        self._tasks = BackgroundTasks()

    def watch(self, owner: Owner, client: PolledWorkers, workers: Mapping[str, Watched]) -> ClusterPoll:
        """Ask these workers of a cluster from now on."""
        poll = self._polls.get(owner)
        if poll is None:
            poll = self._polls[owner] = ClusterPoll(owner, self._slots, lambda: self._wake(owner), self._clock)
        poll.update(client, workers)
        return poll

    def forget(self, owner: Owner) -> None:
        """A cluster is gone, or none of its workers can be asked."""
        poll = self._polls.pop(owner, None)
        if poll is not None:
            self._tasks.spawn(poll.close(), name=f"end-poll-{'/'.join(owner)}")

    async def close(self) -> None:
        """End all questions."""
        polls = list(self._polls.values())
        self._polls.clear()
        for poll in polls:
            await poll.close()
        await self._tasks.close()


def _same(one: Reading, other: Reading) -> bool:
    """Whether two answers are of the same workers, shards and plan."""
    return (one.digest, one.plan_version) == (other.digest, other.plan_version)


def _differs(one: Reading, other: Reading) -> bool:
    """Whether the second answer of a worker changes what is decided."""
    states = [(each.database.state, each.database.reason) if each.database else None for each in (one, other)]
    return (
        states[0] != states[1]
        or (one.member, one.serving, one.excess_privileges) != (other.member, other.serving, other.excess_privileges)
        or (one.rebuild, one.secrets, one.claimed_by_other) != (other.rebuild, other.secrets, other.claimed_by_other)
        or counts(one, one.sent_at) != counts(other, other.sent_at)
    )


def _gained(before: OwnershipResponse | None, after: OwnershipResponse) -> set[str]:
    """The workers that own a shard which they did not own at that epoch."""
    known = {} if before is None else {shard.id: (shard.owner, shard.epoch) for shard in before.shards}
    return {
        shard.owner
        for shard in after.shards
        if shard.owner is not None and known.get(shard.id) != (shard.owner, shard.epoch)
    }
