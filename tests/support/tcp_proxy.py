"""A TCP proxy between the program under test and a real server, with the faults a network has.

Each fault is a switch: `stall` stops forwarding in one or both directions while every socket stays open (a black
hole), `cut` resets all connections, `refuse` resets new ones.  Bytes held by a stall are forwarded when it ends, or
thrown away with the connection.
"""

import asyncio
import socket
import struct
from collections.abc import Callable


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a target.  Use as an async context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._silent: list[_Link] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.refusing = False
        self.up = asyncio.Event()
        """Set while bytes flow from the client to the server."""
        self.down = asyncio.Event()
        """Set while bytes flow from the server to the client."""
        self.up.set()
        self.down.set()
        self.watch: Callable[[bytes], None] | None = None
        """Called with each chunk from a client before it is forwarded; may flip the switches in the same turn."""

    async def __aenter__(self) -> "TcpProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for link in self._silent:
            link.reset()
        tasks = [task for link in list(self._links) for task in link.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """Stop forwarding in the directions named, without closing anything."""
        if up:
            self.up.clear()
        if down:
            self.down.clear()

    def blackhole(self, *, server_notices_s: float | None = None) -> None:
        """Silence every present connection without closing it; new ones are forwarded.

        The server takes the proxy for a client that lives, since its kernel answers each keep-alive: ``server_notices_s`` is when
        it would have found out.
        """
        for link in list(self._links):
            for task in link.tasks:
                task.cancel()
            self._links.discard(link)
            self._silent.append(link)
            if server_notices_s is not None:
                asyncio.get_running_loop().call_later(server_notices_s, _reset, link.far)

    def lead_to(self, host: str, port: int) -> None:
        """Forward new connections there, as an address that has moved; those of before stay where they are."""
        self._target = (host, port)

    def heal(self) -> None:
        """Forward again, what was held first, and accept new connections."""
        self.refusing = False
        self.up.set()
        self.down.set()

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        for link in list(self._links):
            link.reset()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        link.tasks = [
            asyncio.create_task(self._pump(reader, far_writer, self.up, watched=True), name="proxy-up"),
            asyncio.create_task(self._pump(far_reader, writer, self.down, watched=False), name="proxy-down"),
        ]
        try:
            await asyncio.wait(link.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if link not in self._silent:
                self._links.discard(link)
                for task in link.tasks:
                    task.cancel()
                writer.close()
                far_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, *, watched: bool
    ) -> None:
        try:
            while chunk := await reader.read(65536):
                if watched and self.watch is not None:
                    self.watch(chunk)
                await gate.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            return


class _Link:
    """One forwarded connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.tasks: list[asyncio.Task[None]] = []

    def reset(self) -> None:
        _reset(self.near)
        _reset(self.far)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a cut link does."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
