"""A TLS front for a Postgres that has none: it takes the client's request for TLS, and speaks plainly to the server."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

CA_FILE: Final = Path(__file__).parent / "certificates" / "server.pem"
"""The front's certificate, for the name ``localhost`` only; it is its own authority.  Its key is public: a test's."""
_KEY_FILE: Final = CA_FILE.with_suffix(".key")
_REQUEST: Final = bytes.fromhex("0000000804d2162f")


class TlsFront:
    """Forwards ``address``:`port` to 127.0.0.1:``target``.  Use as an async context manager."""

    def __init__(
        self,
        target: int,
        address: str = "127.0.0.1",
        *,
        certificate: Path = CA_FILE,
        key: Path = _KEY_FILE,
    ) -> None:
        self._target = target
        self._address = address
        self.show(certificate, key)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.encrypted = 0
        """Connections that asked for TLS."""

    @property
    def idle(self) -> bool:
        """Whether no link is open."""
        return not self._tasks

    def show(self, certificate: Path, key: Path) -> None:
        """Show this certificate to every client that connects from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> "TlsFront":
        self._server = await asyncio.start_server(self._accept, self._address, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(len(_REQUEST))
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            if first == _REQUEST:
                self.encrypted += 1
                writer.write(b"S")
                await writer.start_tls(self._context)
            else:
                far_writer.write(first)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
