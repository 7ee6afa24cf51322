"""When a cluster's children are written again: a bound for every cause, pure on a clock that the caller reads.

A write that was refused is first tried out by dry runs, so that a mended cause is noticed within `TRY_OUT_S` while nothing is
written.  The write itself is repeated with pauses that double up to `PAUSE_MOST_S`, also where it was taken and did not last,
because another writer takes it back each time.  Other content, an edit for example, is written at once.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.render import digest

PAUSE_MOST_S: Final = 30.0
"""The longest pause between two writes of the same content; reached within the first minute."""
TRY_OUT_S: Final = 5.0
"""The longest pause between two dry runs: what bounds how late a mended cause is noticed."""
PATIENCE_S: Final = 5.0
"""Time that a refusal `FOR_NOW` may last before it is reported: a restarting webhook is no reason for an alarm."""
_QUIET_S: Final = 60.0
"""Time after which a write that was taken does not count as repeated; longer than the longest pause."""
_REVERTED_MOST: Final = 5
"""Writes of the same content within pauses shorter than `_QUIET_S` after which another writer is named as the cause."""
_DOUBLED_MOST: Final = 16
"""Maximum number of doublings: the bound is reached well before, and an unbounded power would overflow a float."""

FOR_NOW: Final = frozenset(
    {Answer.CONFLICT, Answer.EXISTS, Answer.MISSING, Answer.ADMISSION_DOWN, Answer.THROTTLED, Answer.FAILING}
)
"""Answers that often do not last."""

Object = dict[str, Any]  # Kubernetes' own JSON
Verb = Literal["create", "apply", "scale", "delete"]


class Place(NamedTuple):
    """The object that a write is about, or a part of it."""

    kind: str
    name: str
    part: Literal["object", "scale", "deletion"]


class ChildWrite(NamedTuple):
    """One write of a child."""

    verb: Verb
    body: Object
    """The object as it is wanted; the live one for a deletion."""
    uid: str = ""
    """Of the object that is there; empty for one that is made."""
    version: str = ""
    """Of the state that the write was decided on; no part of its content: a child's status changes all the time."""

    @property
    def place(self) -> Place:
        """The object or part that it is about: making an object and changing it are one."""
        part: Literal["object", "scale", "deletion"] = "object"
        if self.verb in ("scale", "delete"):
            part = "scale" if self.verb == "scale" else "deletion"
        return Place(self.body["kind"], self.body["metadata"]["name"], part)

    @property
    def judged(self) -> Preconditions:
        """The state that a change was decided on."""
        return Preconditions(self.uid, self.version)

    @property
    def content(self) -> str:
        """A hash of what is written; of a deletion only which object goes."""
        return digest([self.verb, self.uid, None if self.verb == "delete" else self.body])


class Step(Enum):
    """The step that may be done now with a write that is wanted."""

    WRITE = 1
    TRY_OUT = 2
    """A dry run; the write follows where that passes (`ChildWrites.passed`)."""
    WAIT = 3


class Refusal(NamedTuple):
    """Why a child was not written."""

    kind: str
    name: str
    answer: Answer
    message: str


@dataclass
class _Tries:
    content: str
    began: float
    """When the first of these writes was tried."""
    since: float
    """When the refusal began that goes on."""
    count: int
    """How often this content was written, as far as the last ones did not last."""
    written_at: float
    tried_out: int = 0
    tried_out_at: float = 0.0
    dry_run: bool = True
    refusal: Refusal | None = None

    @property
    def pause_s(self) -> float:
        """Until the same may be written again; what was taken once may be repeated at once."""
        if self.written_at - self.began >= PAUSE_MOST_S:
            return PAUSE_MOST_S  # pauses longer than they were meant make up for none that is to come
        count = self.count if self.refusal is not None else self.count - 1
        return min(PAUSE_MOST_S, 2.0 ** min(count - 1, _DOUBLED_MOST)) if count > 0 else 0.0

    @property
    def due_at(self) -> float:
        """When the next step may be done."""
        if self.refusal is None or not self.dry_run:
            return self.written_at + self.pause_s
        pause_s = min(TRY_OUT_S, 2.0 ** min(self.tried_out, _DOUBLED_MOST))
        return max(self.tried_out_at, self.written_at) + pause_s


class ChildWrites:
    """The last writes of one cluster's children."""

    def __init__(self) -> None:
        self._tries: dict[Place, _Tries] = {}

    def step(self, write: ChildWrite, now: float) -> Step:
        """The step that may be done now."""
        known = self._tries.get(write.place)
        if known is None or known.content != write.content:
            return Step.WRITE
        if now < known.due_at:
            return Step.WAIT
        return Step.WRITE if known.refusal is None or not known.dry_run else Step.TRY_OUT

    def passed(self, write: ChildWrite, now: float) -> bool:
        """A dry run passed; whether the write itself may follow."""
        known = self._tries[write.place]
        known.tried_out, known.tried_out_at = known.tried_out + 1, now
        return now >= known.written_at + known.pause_s

    def failed(self, write: ChildWrite, refusal: Refusal, now: float) -> None:
        """A dry run was refused."""
        known = self._tries.get(write.place)
        if known is None or known.content != write.content:  # tried out before it was ever written
            known = self._tries[write.place] = _Tries(write.content, now, now, 0, now)
        known.tried_out, known.tried_out_at = known.tried_out + 1, now
        if refusal.answer is Answer.NO_DRY_RUN and known.refusal is not None:
            known.dry_run = False  # the last known reason stays: this one is no reason at all
        else:
            known.refusal = refusal

    def accepted(self, write: ChildWrite) -> None:
        """A dry run passed that no write follows now."""
        self._tries.pop(write.place, None)

    def refused(self, write: ChildWrite, refusal: Refusal, now: float) -> None:
        """The write was refused."""
        known = self._tries.get(write.place)
        if known is None or known.content != write.content:
            known = self._tries[write.place] = _Tries(write.content, now, now, 0, now)
        elif known.refusal is None:
            known.since = now
            if now - known.written_at > _QUIET_S:
                known.count, known.began = 0, now
        known.count, known.written_at, known.refusal = known.count + 1, now, refusal

    def taken(self, write: ChildWrite, now: float) -> None:
        """The write was taken."""
        known = self._tries.get(write.place)
        again = known is not None and known.content == write.content and now - known.written_at <= _QUIET_S
        count, began = (known.count + 1, known.began) if known is not None and again else (1, now)
        self._tries[write.place] = _Tries(write.content, began, now, count, now)

    def keep(self, wanted: Collection[Place], now: float) -> None:
        """Forget the refusals of what is wanted no more, and the writes that have lasted."""
        for place, known in list(self._tries.items()):
            if place not in wanted and (known.refusal is not None or now - known.written_at > _QUIET_S):
                del self._tries[place]

    def refusals(self, now: float) -> list[Refusal]:
        """The refusals that are to be reported."""
        return [
            known.refusal
            for known in self._tries.values()
            if known.refusal is not None and (known.refusal.answer not in FOR_NOW or now - known.since >= PATIENCE_S)
        ]

    @property
    def refused_count(self) -> int:
        """How many writes are refused."""
        return sum(known.refusal is not None for known in self._tries.values())

    def due_in_s(self, now: float) -> float | None:
        """In how many seconds the next step with something refused may be done; None when nothing is refused."""
        due = [known.due_at - now for known in self._tries.values() if known.refusal is not None]
        return max(0.0, min(due)) if due else None

    def often_reverted(self, now: float) -> list[Place]:
        """The places that another writer takes back again and again; a Job that is tried again is none."""
        return [
            place
            for place, known in self._tries.items()
            if known.refusal is None
            and known.count >= _REVERTED_MOST
            and now - known.written_at < _QUIET_S
            and place.kind != "Job"
        ]
