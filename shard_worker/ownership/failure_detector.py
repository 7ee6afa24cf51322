"""Finds the workers that died: judges each worker by its heartbeats, as read within one database session.

Pure: the caller passes the time of each view.  The database decides whether a suspect is fenced; these rules choose the
moment.  One promise depends on them: a worker serves reads from memory during its lease, so no incarnation becomes a
suspect sooner than `LOCK_GONE_S` after the answer that first showed its last heartbeat.  That is longer than any lease.
The promise holds within one session only, because between two sessions heartbeats may pass unseen.
"""

from collections.abc import Set
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import rendezvous
from shard_worker.ownership.view import OwnershipView, WorkerRow

RANK_S: Final = 0.2
"""Additional wait for each place in the rendezvous order, of claims and of fencing alike."""
LIVE_S: Final = 0.7
"""Maximum age of the last heartbeat of a live worker.  Several heartbeats and views long, and not much longer than a
shard stays without an owner: else a shard transferred to a worker that just died would be transferred to it again."""
TTL_S: Final = 3.0
"""A worker whose heartbeat does not change for this time may be fenced, though it may only be slow."""
LOCK_GONE_S: Final = 0.7
"""The same time once its session's lock was seen held and then gone, and for an incarnation that was replaced."""

NAME_LOST_S: Final = 3.0
"""Another process under this worker's name whose heartbeat does not change for this time has lost the name again."""


class Fenced(Exception):
    """Another worker ended this incarnation."""


class Suspect(NamedTuple):
    """An incarnation to be fenced."""

    worker: str
    incarnation: str
    beat: int | None
    """The heartbeat that it must still be at; None for an incarnation that by its worker's row no longer lives."""


class _Heartbeat(NamedTuple):
    incarnation: str
    beat: int
    since: float
    """The time of the answer that first showed this heartbeat, or the end of its session.  A later heartbeat may have gone
    unseen between."""


class FailureDetector:
    """The heartbeats that one worker saw of its peers, and when, by its own monotonic clock within one database session.

    A worker counts as live once its heartbeat was seen to *change*: the row of a dead worker looks like any other.
    """

    def __init__(self) -> None:
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._moved: dict[str, float] = {}
        self._locks_seen: set[str] = set()
        self._replaced_since: dict[tuple[str, str], float] = {}
        self._unowned_since: dict[ShardId, float] = {}

    def restart(self) -> None:
        """Forget everything: between two sessions heartbeats may pass unseen."""
        self._heartbeats.clear()
        self._moved.clear()
        self._locks_seen.clear()
        self._replaced_since.clear()
        self._unowned_since.clear()

    def note(self, view: OwnershipView, now: float) -> None:
        """Take in one view; ``now`` is the time of its answer."""
        for worker in view.workers.values():
            before = self._heartbeats.get(worker.id)
            if before is None or (before.incarnation, before.beat) != (worker.incarnation, worker.beat):
                self._heartbeats[worker.id] = _Heartbeat(worker.incarnation, worker.beat, now)
                if before is not None and worker.locked:  # the end of a session is a change too, and no heartbeat
                    self._moved[worker.id] = now
            if worker.locked:
                self._locks_seen.add(worker.incarnation)
        replaced = set()
        for row in view.shards.values():
            if row.owner is None or row.incarnation is None:
                self._unowned_since.setdefault(row.id, now)
                continue
            self._unowned_since.pop(row.id, None)
            worker_row = view.workers.get(row.owner)
            if (
                worker_row is None
                or not row.incarnation
                or worker_row.incarnation != row.incarnation
                or worker_row.fenced  # and kept its shards: no statement of `store` leaves that, a restored row may
            ):
                replaced.add((row.owner, row.incarnation))
        self._replaced_since = {each: self._replaced_since.get(each, now) for each in replaced}

    def live(self, view: OwnershipView, now: float) -> frozenset[str]:
        """The workers with a recent heartbeat that do not leave."""
        return frozenset(
            worker.id
            for worker in view.workers.values()
            if not worker.fenced and not worker.leaving and now - self._moved.get(worker.id, -LIVE_S) < LIVE_S
        )

    def unowned_s(self, now: float) -> dict[ShardId, float]:
        """How long each shard without an owner has been seen without one."""
        return {shard_id: now - since for shard_id, since in self._unowned_since.items()}

    def quiet_s(self, view: OwnershipView, worker: str, now: float) -> float:
        """The age of the oldest heartbeat among the other workers: a long silence asks for more frequent views."""
        others = [row for row in view.workers.values() if row.id != worker and not row.fenced]
        return max([now - self._heartbeats[row.id].since for row in others], default=0.0)

    def suspects(self, view: OwnershipView, worker: str, now: float) -> list[Suspect]:
        """The incarnations that ``worker`` should fence now.

        The first worker in the rendezvous order fences first, the next one `RANK_S` later.  When two or more, and more
        than half of the others, look dead, the observer itself may be at fault: it waits one more `TTL_S`.
        """
        others = [row for row in view.workers.values() if row.id != worker and not row.fenced and row.incarnation]
        live = self.live(view, now) | {worker}
        late = [(row, over) for row in others if (over := self._late_s(row, now)) >= 0.0]
        patience = TTL_S if len(late) > 1 and 2 * len(late) > len(others) else 0.0
        found = [
            Suspect(row.id, row.incarnation, row.beat)
            for row, over in late
            if over >= patience + _rank_s(row.id, worker, live)
        ]
        found += [
            Suspect(owner, incarnation, None)
            for (owner, incarnation), since in self._replaced_since.items()
            if now - since >= LOCK_GONE_S + _rank_s(owner, worker, live)
        ]
        return sorted(found, key=lambda suspect: (suspect.worker, suspect.incarnation))

    def _late_s(self, row: WorkerRow, now: float) -> float:
        """By how much the age of a worker's heartbeat exceeds its limit; negative below the limit."""
        gone = row.incarnation in self._locks_seen and not row.locked
        return now - self._heartbeats[row.id].since - (LOCK_GONE_S if gone else TTL_S)


class NameWatch:
    """Tells a process whose name another process has taken when it may register again.

    Two processes that took the name from each other in turn would serve no shard.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._seen = ("", -1)
        self._seen_at = 0.0

    def is_free(self, view: OwnershipView, own: Set[str], now: float) -> bool:
        """Whether no other process lives under the name; ``own`` are the incarnations of this process."""
        row = view.workers.get(self._worker)
        if row is None or row.fenced or row.incarnation in own:
            return True
        if (row.incarnation, row.beat) == self._seen:
            return now - self._seen_at > NAME_LOST_S
        self._seen, self._seen_at = (row.incarnation, row.beat), now
        return False


def _rank_s(about: str, worker: str, live: Set[str]) -> float:
    return rendezvous_rank(about, worker, live) * RANK_S


def rendezvous_rank(about: ShardId | str, worker: str, workers: Set[str]) -> int:
    """The place of ``worker`` among the workers that may act on a shard or a dead worker."""
    return rendezvous(about, workers).index(worker)
