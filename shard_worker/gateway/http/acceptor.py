"""Acceptor: hands the connections of one listening socket to the gateway's protocol.

When descriptors run out it drops connections that wait for their clients.
"""

import asyncio
import logging
import socket
from functools import partial
from typing import Final

from shard_worker.accept_loop import AcceptBounds, AcceptLoop
from shard_worker.gateway.http.connection import ConnectionFactory
from shard_worker.tasks import BackgroundTasks

_LOG: Final = logging.getLogger(__name__)
_PER_TURN: Final = 32
"""Maximum accepted in one turn: each costs about 0.1 ms, and the rest is accepted in the next turn."""
_PAUSE_S: Final = 0.1
"""How long nothing is accepted after descriptors ran out; what the port drops is closed within a turn."""


class Acceptor:
    """Accepts on a duplicate of the socket given, which stays the caller's to close.

    ``adoptions`` owns the tasks that hand accepted sockets to the loop.
    """

    def __init__(
        self, listening: socket.socket, factory: ConnectionFactory, backlog: int, adoptions: BackgroundTasks
    ) -> None:
        self._factory = factory
        self._adoptions = adoptions
        self._loop = asyncio.get_running_loop()
        self._making_place: asyncio.TimerHandle | None = None
        self._accepting = AcceptLoop(
            listening,
            AcceptBounds(backlog, _PER_TURN, _PAUSE_S),
            accepted=self._accepted,
            exhausted=self._exhausted,
        )

    def start(self) -> None:
        """Listen.  Raises OSError when the socket cannot."""
        self._accepting.start()

    def close(self) -> None:
        """Accept nothing more; connections that were accepted go on."""
        self._accepting.close()
        if self._making_place is not None:
            self._making_place.cancel()

    def _accepted(self, sock: socket.socket, _peer: object) -> None:
        self._adoptions.spawn(self._adopt(sock), name="adopt-connection", on_end=partial(_adopted, sock))

    async def _adopt(self, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._factory, accepted)

    def _exhausted(self, error: OSError, loud: bool) -> None:
        """Give descriptors back within the pause."""
        capacity = self._factory.capacity
        capacity.exhausted += 1
        if loud:
            _LOG.error(
                "port ran out of file descriptors; raise the limit of open files",
                extra={"cause": repr(error), "connections": len(capacity.clients), "times": capacity.exhausted},
            )
        # Connections that were accepted in this turn are not counted yet: without them only older clients would be dropped.
        self._making_place = self._loop.call_later(_PAUSE_S / 2, self._make_place)

    def _make_place(self) -> None:
        self._making_place = None
        self._factory.capacity.make_place(self._loop.time())


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
