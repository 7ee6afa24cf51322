"""Accept loop: takes the connections of one listening socket, a bounded number a turn.

The event loop's own servers treat a lack of file descriptors each in their way: libuv closes what comes, asyncio logs
every attempt.  Here the owner of the port counts it, logs it once a minute, and gives back what it can; after a pause the
loop accepts again.  Meanwhile newcomers wait in the kernel's backlog.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

_LOG_EVERY_S: Final = 60.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class AcceptBounds(NamedTuple):
    """How much one listening socket accepts."""

    backlog: int
    """Connections that wait in the kernel."""
    per_turn: int
    """Maximum accepted in one turn of the event loop; the rest is accepted in the next turn."""
    pause_s: float
    """How long nothing is accepted after descriptors ran out."""


class AcceptLoop:
    """Accepts on a duplicate of the socket given, which stays the caller's to close.

    ``accepted`` gets each socket, non-blocking, with its peer's address.  ``exhausted`` gets the error of a lack of
    descriptors, and whether the owner is to log it.
    """

    def __init__(
        self,
        bound: socket.socket,
        bounds: AcceptBounds,
        *,
        accepted: Callable[[socket.socket, object], None],
        exhausted: Callable[[OSError, bool], None],
    ) -> None:
        self._socket = bound.dup()
        self._bounds = bounds
        self._accepted = accepted
        self._exhausted = exhausted
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._logged_at = float("-inf")
        self._closed = False

    def start(self) -> None:
        """Listen.  Raises OSError when the socket cannot."""
        self._socket.setblocking(False)
        self._socket.listen(self._bounds.backlog)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept nothing more; connections that were accepted go on.  May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(self._bounds.per_turn):
            if self._closed:  # by the owner, for a connection of this turn
                return
            try:
                accepted, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # the client has gone before it was accepted
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                else:
                    log.warning("listener failed to accept a connection", extra={"cause": repr(error)})
                return
            accepted.setblocking(False)
            self._accepted(accepted, peer)

    def _pause(self, error: OSError) -> None:
        now = self._loop.time()
        loud = now - self._logged_at >= _LOG_EVERY_S
        if loud:
            self._logged_at = now
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(self._bounds.pause_s, self._accept_again)
        self._exhausted(error, loud)

    def _accept_again(self) -> None:
        self._resume = None
        self._loop.add_reader(self._socket, self._accept)
