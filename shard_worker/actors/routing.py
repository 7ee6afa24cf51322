"""Where a request goes next: the decision alone, from what the worker knows of the shard at this moment.

`route_of` compares the shard's owner with what is known of failed attempts.  `OwnerSearch` keeps that knowledge for one
request: which owner did not serve it, and whether a worker may have stored it.
"""

from enum import Enum, auto
from typing import Final

from shard_worker.actors.pending import UNKNOWN
from shard_worker.contract import Answer, CommandRequest, Done, PeerAnswer, Request
from shard_worker.ownership.view import ShardOwner

_NONE: Final = -1
"""An epoch before every epoch: no owner is known to have failed."""


class Route(Enum):
    """The next step of a worker with a request for a shard."""

    SERVE_HERE = auto()
    """The shard is on this worker."""
    ASK_OWNER = auto()
    """Another worker owns the shard, as far as this worker knows."""
    WAIT = auto()
    """The shard's next owner is not known yet, or serves other requests first."""
    REFUSE = auto()
    """No worker will own the shard."""


def route_of(
    worker: str,
    owner: ShardOwner | None,
    *,
    here: bool,
    deserted: bool,
    after_epoch: int = _NONE,
    queued: bool = False,
) -> Route:
    """The route of a request at ``worker``, for a shard that belongs to ``owner``.

    ``here`` says whether the shard is on this worker, ``deserted`` whether all workers leave, ``queued`` whether other
    requests for the shard wait in front.  The owner of ``after_epoch``, and of every earlier epoch, did not serve the
    shard.
    """
    if here:
        return Route.SERVE_HERE
    if owner is None:
        return Route.REFUSE if deserted else Route.WAIT
    # Owned by this worker and not here: the shard is being adopted, or was just dropped.  Either `adopt` or a newer epoch
    # ends the wait.
    if owner.worker == worker or owner.epoch <= after_epoch or queued:
        return Route.WAIT
    return Route.ASK_OWNER


class OwnerSearch:
    """Knowledge of one request about its shard's owners: which did not serve it, and whether one may have stored it."""

    __slots__ = ("_admitted", "_request", "_worker", "after_epoch", "maybe_stored", "probe_at")

    def __init__(self, worker: str, request: Request) -> None:
        self._worker = worker
        self._request = request
        self._admitted = False
        """Whether the request was just let in from the shard's line, so that it need not line up again."""
        self.after_epoch = _NONE
        """The owner of this epoch, and of every earlier one, did not serve the request."""
        self.probe_at = 0.0
        """When that owner may be asked again, in loop time."""
        self.maybe_stored = False
        """Whether the command was sent to an owner whose answer never came."""

    def route(self, owner: ShardOwner | None, *, here: bool, deserted: bool, queued: bool) -> Route:
        """The route of the request now; see `route_of`."""
        return route_of(
            self._worker,
            owner,
            here=here,
            deserted=deserted,
            after_epoch=self.after_epoch,
            queued=queued and not self._admitted,
        )

    def waits(self, owner: ShardOwner | None) -> None:
        """The request lines up: an owner that is this worker is not asked, so only a later epoch is news."""
        if owner is not None and owner.worker == self._worker:
            self.after_epoch = max(self.after_epoch, owner.epoch)

    def let_in(self) -> None:
        """The wait is over: the known owner may be asked, whichever it is."""
        self.after_epoch, self._admitted = _NONE, True

    def asks(self) -> None:
        """The owner is asked: after this the request lines up like any other."""
        self._admitted = False

    def lost(self, owner: ShardOwner, *, sent: bool, probe_at: float) -> bool:
        """The link to the owner broke; False when the request must not be sent again.

        The owner may have stored a command that was sent: without a key a second sending could store it twice.
        """
        request = self._request
        if sent and type(request) is CommandRequest:
            if request.key_hash is None:
                return False
            self.maybe_stored = True
        self.after_epoch, self.probe_at = owner.epoch, probe_at
        return True

    def not_served(self, owner: ShardOwner) -> None:
        """The owner does not serve the shard, and knows no later owner."""
        self.after_epoch, self.probe_at = owner.epoch, 0.0

    def certain(self, answer: PeerAnswer) -> Answer:
        """The answer; of a command that may be stored already only a success is certain."""
        if self.maybe_stored and type(answer) is not Done:
            return UNKNOWN
        return answer  # type: ignore[return-value]  # an owner's answer to a request of a gateway that is not `Moved`
