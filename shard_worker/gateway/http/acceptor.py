"""Acceptor: takes the connections of one listening socket, a bounded number a turn.

The loop's own servers treat a lack of file descriptors each in their way: libuv closes what comes, asyncio logs every
attempt.  Here the acceptor counts it, logs it once a minute, drops connections that wait for their clients, and accepts
again a moment later; meanwhile newcomers wait in the kernel's backlog.
"""

import asyncio
import errno
import logging
import socket
from functools import partial
from typing import Final

from shard_worker.gateway.http.connection import ConnectionFactory
from shard_worker.tasks import BackgroundTasks

_LOG: Final = logging.getLogger(__name__)
_PER_TURN: Final = 32
"""Maximum accepted in one turn: each costs about 0.1 ms, and the rest is accepted in the next turn."""
_PAUSE_S: Final = 0.1
"""How long nothing is accepted after descriptors ran out; what the port drops is closed within a turn."""
_LOG_EVERY_S: Final = 60.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts on a duplicate of the socket given, which stays the caller's to close.

    ``adoptions`` owns the tasks that hand accepted sockets to the loop.
    """

    def __init__(
        self, listening: socket.socket, factory: ConnectionFactory, backlog: int, adoptions: BackgroundTasks
    ) -> None:
        self._listening = listening.dup()
        self._factory = factory
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._adoptions = adoptions
        self._paused: asyncio.TimerHandle | None = None
        self._logged_at = float("-inf")
        self._closed = False

    def start(self) -> None:
        """Listen.  Raises OSError when the socket cannot."""
        self._listening.setblocking(False)
        self._listening.listen(self._backlog)
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept nothing more; connections that were accepted go on."""
        if self._closed:
            return
        self._closed = True
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the client has gone before it was accepted
            accepted.setblocking(False)
            self._adoptions.spawn(self._adopt(accepted), name="adopt-connection", on_end=partial(_adopted, accepted))

    async def _adopt(self, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._factory, accepted)

    def _pause(self, error: OSError) -> None:
        """Descriptors ran out: give some back, and try again in a moment."""
        now = self._loop.time()
        capacity = self._factory.capacity
        capacity.exhausted += 1
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            _LOG.error(
                "port ran out of file descriptors; raise the limit of open files",
                extra={"cause": repr(error), "connections": len(capacity.clients), "times": capacity.exhausted},
            )
        self._loop.remove_reader(self._listening)
        # Connections that were accepted in this turn are not counted yet: without them only older clients would be dropped.
        self._paused = self._loop.call_later(_PAUSE_S / 2, self._make_place)

    def _make_place(self) -> None:
        self._factory.capacity.make_place(self._loop.time())
        self._paused = self._loop.call_later(_PAUSE_S / 2, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listening, self._accept)


def _adopted(accepted: socket.socket, task: "asyncio.Task[None]") -> None:
    """Close a socket that no connection has taken, also after a task that was cancelled before its first step."""
    if task.cancelled():
        accepted.close()
    elif (error := task.exception()) is not None:
        accepted.close()
        if isinstance(error, OSError):
            _LOG.debug("accepted connection was lost", extra={"cause": repr(error)})
        else:
            _LOG.error("port failed to take an accepted connection", exc_info=error)
