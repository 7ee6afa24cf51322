"""Drives the product's `ReconcilerCore` on the model: answers its requests from the database, the links and the host.

Nothing here decides or orders anything.  A statement is one event to the server, one at the server, and one back; between
any two of them anything else may happen.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reconciler_requests as ask
from shard_worker.ownership.handoff import Handoff
from shard_worker.ownership.reconciler_core import ReconcilerCore
from tests.simulation import transactions
from tests.simulation.database import Transaction
from tests.simulation.link import Session, connect
from tests.simulation.task import LinkFault, Signal, Sleep, Work

if TYPE_CHECKING:
    from tests.simulation.worker import WorkerProcess

_STATEMENT_S: Final = 5.0
_CATCH_UP_S: Final = 0.02
_SILENT: Final = (ask.Observe, ask.Wait, ask.Pause, ask.ReadView, ask.CycleDone)
"""Requests that a story leaves out."""


class Reconciler:
    """The core of one incarnation, and the tasks that run beside its session."""

    def __init__(self, process: "WorkerProcess", incarnation: str) -> None:
        self.core = ReconcilerCore(process.name, incarnation)
        self._process = process
        self._world = process.world
        self._incarnation = incarnation
        self._session: Session | None = None
        self._wake = Signal()
        self._refresh = False
        self._drains: dict[ShardId, object] = {}

    @property
    def handoffs(self) -> Mapping[ShardId, Handoff]:
        """The handoffs under way."""
        return self.core.handoffs

    def request_refresh(self) -> None:
        """Ownership may have changed."""
        self._refresh = True
        self._wake.set()

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """A peer notifies an incarnation of this worker."""
        self.core.on_transferred(shard_id, epoch, incarnation, head)
        self._wake.set()

    def run(self) -> Work[None]:
        """Answer requests until the incarnation is fenced, which raises `Fenced`."""
        steps = self.core.run()
        resume: Callable[[], ask.Request] = lambda: next(steps)  # noqa: E731  # replaced by each answer
        try:
            while True:
                request = resume()
                if self._world.watch.tell is not None and not isinstance(request, _SILENT):
                    self._world.watch.tell(f"{self._incarnation}: {request}")
                try:
                    resume = _sender(steps, (yield from self._answer(request)))
                except LinkFault:
                    self._close()
                    resume = _thrower(steps)
        finally:
            self._close()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _answer(self, request: ask.Request) -> Work[object]:
        local = _LOCAL.get(type(request))
        if local is not None:
            return local(self, request)
        statement = STATEMENTS.get(type(request))
        if statement is not None:
            assert self._session is not None
            if isinstance(request, ask.ReadView):
                self._refresh = False
            transaction = statement(self._process.name, self._incarnation, request)
            return (yield from self._session.execute(transaction, _STATEMENT_S))
        if isinstance(request, ask.OpenSession):
            self._session = yield from connect(self._world, self._process, self._incarnation)
            self._session.listen(self.request_refresh)
        elif isinstance(request, ask.CatchUp):
            yield Sleep(self._world.rng.random() * _CATCH_UP_S)
        elif isinstance(request, ask.Pause):
            yield Sleep(request.seconds)
        elif isinstance(request, ask.Wait):
            rest_s = (request.earliest if self._refresh else request.latest) - self._process.mono()
            if rest_s > 0.0:
                self._wake.most_s = rest_s + 1e-6  # less than that is lost in rounding, and time would not advance
                yield self._wake
        return None

    # --- beside the session

    def _observe(self, request: ask.Observe) -> ask.Observation:
        del request
        host, process = self._process.host, self._process
        return ask.Observation(process.mono(), process.leaving, self._refresh, host.present(), host.serving())

    def _adopt(self, request: ask.Adopt) -> None:
        for shard_id, head in request.heads.items():
            self._process.host.adopt(shard_id, request.epochs[shard_id], head)

    def _start_prepare(self, request: ask.StartPrepare) -> None:
        def ended(ready: bool) -> None:
            if self._process.reconciler is self:
                self.core.prepare_ended(request.shard_id, request.handoff, ready=ready, now=self._process.mono())
                self._wake.set()

        self._world.prepare(self._process, request.receiver.worker, request.shard_id, ended)

    def _start_drain(self, request: ask.StartDrain) -> None:
        shard_id = request.shard_id
        drain = self._drains[shard_id] = object()

        def ended(head: int | None) -> None:
            if self._drains.get(shard_id) is drain and self._process.reconciler is self:
                self.core.drain_ended(shard_id, head, failed=False, now=self._process.mono())
                self._wake.set()

        self._process.host.drain(shard_id, ended)

    def _notify(self, request: ask.NotifyTransferred) -> None:
        self._world.notify_transferred(request.receiver, request.shard_id, request.head)

    def _cycle_done(self, request: ask.CycleDone) -> None:
        del request
        self._world.watch.handoffs(self._process.host, self.core.handoffs)
        self._process.cycle_done(self.core.view)


def _sender(steps: "ask.Steps[Any]", answer: object) -> Callable[[], ask.Request]:
    return lambda: steps.send(answer)


def _thrower(steps: "ask.Steps[Any]") -> Callable[[], ask.Request]:
    return lambda: steps.throw(ask.SessionLost())


_Local = Callable[[Reconciler, Any], object]
_LOCAL: Final[Mapping[type[ask.Request], _Local]] = {
    ask.Observe: Reconciler._observe,
    ask.Adopt: Reconciler._adopt,
    ask.StartPrepare: Reconciler._start_prepare,
    ask.StartDrain: Reconciler._start_drain,
    ask.NotifyTransferred: Reconciler._notify,
    ask.CycleDone: Reconciler._cycle_done,
    ask.Drop: lambda driver, request: driver._process.host.drop(request.shard_id),
    ask.Resume: lambda driver, request: driver._process.host.resume(request.shard_id),
    ask.CancelDrain: lambda driver, request: driver._drains.pop(request.shard_id),
    ask.ReportUnreadable: lambda _driver, _request: None,
}
_Statement = Callable[[str, str, Any], Transaction[Any]]
STATEMENTS: Final[Mapping[type[ask.Request], _Statement]] = {
    ask.MarkLeaving: lambda worker, incarnation, _: transactions.mark_leaving(worker, incarnation),
    ask.ReadView: lambda _worker, _incarnation, each: transactions.read_view(each.known),
    ask.Fence: lambda _worker, _incarnation, each: transactions.fence(each.suspect, each.targets),
    ask.Claim: lambda worker, incarnation, each: transactions.claim(worker, incarnation, each.shard_ids),
    ask.Release: lambda _, incarnation, each: transactions.release(incarnation, each.epochs),
    ask.RaiseEpoch: lambda _, incarnation, each: transactions.raise_epoch(incarnation, each.epochs),
    ask.ReadHeads: lambda _, incarnation, each: transactions.owned_heads(incarnation, each.epochs),
    ask.RecordStartSeqs: lambda _worker, _incarnation, each: transactions.record_start_seqs(each.epochs, each.heads),
    ask.TransferShards: lambda _, incarnation, each: transactions.transfer(incarnation, each.transfers),
}
