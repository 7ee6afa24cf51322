"""A reconciler core whose requests a test answers."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.handoff import Handoff
from shard_worker.ownership.reconciler_core import (
    ReconcilerCore,
)
from shard_worker.ownership.reconciler_requests import (
    Observation,
    Observe,
    ReadHeads,
    ReadView,
    Wait,
)
from shard_worker.ownership.view import OwnershipView, ShardOwner, ShardRow, WorkerRow
from tests.ownership.views import S0, shard, view_of, worker

ALONE = [worker("a")]
"""The rows of a worker without a peer."""
PAIR = [worker("a"), worker("b")]
RECEIVER = ShardOwner("b", "b1", 5, "h", 1, 2)
"""Worker ``b``, as the receiver of a handoff at epoch 5."""


class Script:
    """A core, and the answers to its requests."""

    def __init__(self, *rows: WorkerRow | ShardRow) -> None:
        self.core = ReconcilerCore("a", "a1")
        self.view = view_of(*rows)
        self.now = 100.0
        self.leaving = False
        self.refresh_requested = False
        self.serving: set[ShardId] = set()
        self.present: set[ShardId] = set()
        self.answers: dict[type, Any] = {}
        """By request; an exception is raised, a function called, and `OpenSession` and `Observe` need none."""

    def turn(self) -> list[Any]:
        """The requests of one turn, without its looks at the clock."""
        return self.drive(self.core.turn())

    def drive(self, steps: Generator[Any, object, object], most: int = 100) -> list[Any]:
        """The requests of some steps, the first ``most`` of them."""
        sent: list[Any] = []
        try:
            request = next(steps)
            while len(sent) < most:
                if not isinstance(request, Observe):
                    sent.append(request)
                answer = self._answer(request)
                request = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration:
            pass
        return sent

    def _answer(self, request: Any) -> object:
        if isinstance(request, Observe):
            return Observation(self.now, self.leaving, self.refresh_requested, self.present, self.serving)
        if isinstance(request, ReadView):
            answer: Any = self.answers.get(ReadView, self.view)
        elif isinstance(request, ReadHeads):
            answer = self.answers.get(ReadHeads, dict.fromkeys(request.epochs, 7))
        else:
            answer = self.answers.get(type(request))
        return answer(request) if callable(answer) else answer

    def later(self, seconds: float, *rows: WorkerRow | ShardRow) -> list[Any]:
        """The requests of a turn some time later, on another view, if one is given."""
        self.now += seconds
        self.view = view_of(*rows) if rows else self.view
        return self.turn()

    def handing_over(self) -> Handoff:
        """Shard 0 is served here and begins to move to ``b``, whose second heartbeat was seen; at second 101."""
        self.present, self.serving = {S0}, {S0}
        self.view = view_of(*PAIR, shard("a", "b"))
        self.turn()
        self.later(1.0, worker("a", 1), worker("b", 1), shard("a", "b"))
        return self.core.handoffs[S0]

    def drained(self) -> None:
        """The same shard is drained, at head 40."""
        begun = self.handing_over()
        self.core.prepare_ended(S0, begun, ready=True, now=self.now)
        self.serving = set()
        self.later(0.1)
        self.core.drain_ended(S0, 40, failed=False, now=self.now + 0.01)


def slowly(script: Script, seconds: float) -> Callable[[object], OwnershipView]:
    """The answer to a view that takes this long."""

    def answer(_: object) -> OwnershipView:
        script.now += seconds
        return script.view

    return answer


def waits(requests: Iterable[Any], now: float) -> Any:  # approximate numbers, which have no type
    """How long the wait at the end may be: at least, and at most."""
    *_, last = requests
    assert isinstance(last, Wait)
    return pytest.approx(last.earliest - now), pytest.approx(last.latest - now)
