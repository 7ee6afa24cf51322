"""The real gateway on a loop of its own thread, which measures what each of its turns costs that thread.

The client's work is another thread's, so the CPU clock of the loop's thread shows the gateway alone, however busy the
machine is.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from shard_worker.gateway.public.server import PublicGateway, listening_socket
from tests.fakes.memory_threads import MemoryThreads

_PATIENCE_S = 30.0


class _MeasuredLoop(asyncio.SelectorEventLoop):
    """Knows the CPU of its longest turn; waiting for sockets costs none."""

    longest_turn_s = 0.0
    turns = 0

    def _run_once(self) -> None:
        begun = time.thread_time()
        super()._run_once()  # type: ignore[misc]  # asyncio's own name for a turn
        self.turns += 1
        self.longest_turn_s = max(self.longest_turn_s, time.thread_time() - begun)


class MeasuredGateway:
    """A gateway that serves threads in memory on loopback."""

    def __init__(self) -> None:
        self.port = 0
        self.threads = MemoryThreads()
        self._loop = _MeasuredLoop()
        self._gateway = PublicGateway(self.threads)

    def _serve(self, bound: socket.socket, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._gateway.start([bound]))
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._gateway.close())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def longest_turn_s(self, *raws: bytes) -> float:
        """The CPU seconds of the longest turn while these bytes, one connection each, are sent and answered."""
        self._loop.longest_turn_s = 0.0
        clients = [threading.Thread(target=_converse, args=(self.port, raw)) for raw in raws]
        for client in clients:
            client.start()
        for client in clients:
            client.join(_PATIENCE_S)
            assert not client.is_alive(), "the gateway does not answer"
        return self._loop.longest_turn_s

    def turns(self, raw: bytes) -> int:
        """How often the loop turns while these bytes are answered."""
        before = self._loop.turns
        self.longest_turn_s(raw)
        return self._loop.turns - before

    def stop(self, thread: threading.Thread) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(_PATIENCE_S)


@contextmanager
def measured_gateway() -> Iterator[MeasuredGateway]:
    """Serve for as long as the block lasts."""
    measured = MeasuredGateway()
    with listening_socket("127.0.0.1", 0) as bound:
        ready = threading.Event()
        measured.port = bound.getsockname()[1]
        thread = threading.Thread(target=measured._serve, args=(bound, ready), name="measured-gateway")
        thread.start()
        assert ready.wait(_PATIENCE_S)
        try:
            yield measured
        finally:
            measured.stop(thread)


def _converse(port: int, raw: bytes) -> None:
    """Send a request, or many, and read until each was answered or the gateway closes the connection."""
    wanted = raw.count(b" HTTP/1.1\r\n")
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
        sender = threading.Thread(target=_send, args=(connection, raw))
        sender.start()
        received = b""
        try:
            while wanted and (data := connection.recv(1 << 16)):
                received += data
                while wanted and (length := _first_answer_length(received)) is not None:
                    received = received[length:]
                    wanted -= 1
        except ConnectionError:
            pass  # closed by the gateway with bytes of ours unread
        finally:
            connection.close()
            sender.join(_PATIENCE_S)


def _send(connection: socket.socket, raw: bytes) -> None:
    with suppress(OSError):  # the gateway may refuse and close
        connection.sendall(raw)


def _first_answer_length(received: bytes) -> int | None:
    """The bytes of the first answer, or None while it is not whole."""
    head, found, _ = received.partition(b"\r\n\r\n")
    if not found:
        return None
    fields: dict[bytes, Any] = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    length = len(head) + 4 + int(fields.get(b"content-length", b"0"))
    return length if len(received) >= length else None
