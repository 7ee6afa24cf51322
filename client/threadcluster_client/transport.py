"""HTTP of the client: attempts within one deadline, and connections for streams.

Connections are of two kinds.  A command's or query's first attempt takes one of the pool.  Its later attempts, and streams,
open their own: after a network fault every connection of the pool may be dead without a sign.  A semaphore bounds commands
and queries, so streams take nothing of that limit.
"""

import asyncio
import json
import math
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp

from threadcluster_client.backoff import retry_after_s, wait_s
from threadcluster_client.errors import (
    ClientClosed,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    UnexpectedAnswer,
    WrongEventLoop,
    is_retryable,
    leaves_outcome_open,
    problem_error,
)
from threadcluster_client.owners import Owners, owners_in

_FAULTS: Final = (aiohttp.ClientError, OSError)
"""Connection faults; a time-out of asyncio is an OSError too."""
_MAP_S: Final = 2.0
"""Maximum time of a reading of the map."""
_MAP_AGE_S: Final = 1.0
"""Age after which the map is read again, beside the calls."""
_MAP_AGE_MOST_S: Final = 10.0
"""Age after which it is not used any more."""
_MAP_MOST: Final = 4 << 20
"""Bytes of a map; that of 4,096 shards has 0.7 MiB."""
_ErrorT = TypeVar("_ErrorT", bound=ClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of time and connections."""

    deadline_s: float = 30.0
    """Of a whole call: the wait for a connection, all attempts with their bodies, and the waits between them."""
    connect_s: float = 5.0
    idle_s: float = 15.0
    """Time without a byte after which an attempt is lost; longer than the server waits before it answers."""
    stream_idle_s: float = 50.0
    """The same of a stream: three heart-beats of the server."""
    connections: int = 64
    """Attempts of commands and queries at one time."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, ready to be sent as often as it takes; ``url`` has its query."""

    method: str
    url: str
    body: bytes | None = None
    idempotency_key: str | None = None
    thread_id: str | None = None
    """The thread that the call is about, if it is one: its owner answers without a hop."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success."""

    document: Mapping[str, Any]
    replayed: bool


class _Course:
    """The attempts of one call so far."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.attempts = 0
        self.outcome_unknown = False
        self.last: ClientError | None = None

    def mark(self, error: _ErrorT) -> _ErrorT:
        """The error, with what the caller needs to know of the call."""
        error.idempotency_key = self.call.idempotency_key
        error.attempts = self.attempts
        error.outcome_unknown = self.outcome_unknown
        return error


class Transport:
    """The connections of one client, in one event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        map_url: str | None = None,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        limits: Limits,
    ) -> None:
        _expect_url(base_url, "http://127.0.0.1:8080")
        if map_url is not None:
            _expect_url(map_url, "http://127.0.0.1:8081/cluster")
        self._map_url = map_url
        self._owners: Owners | None = None
        self._map_read_at = -math.inf
        self._map_reading: asyncio.Task[None] | None = None
        self._base = base_url.rstrip("/")
        self._headers = dict(headers)
        self._ssl: ssl.SSLContext | bool = True if ssl_context is None else ssl_context
        self.limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pooled: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession
        self._permits: asyncio.Semaphore
        self._closed = asyncio.Event()

    def url(self, path: str, query: Mapping[str, str | int | None]) -> str:
        """A URL below the base; ``path`` is quoted already."""
        given = urlencode({name: value for name, value in query.items() if value is not None})
        return f"{self._base}{path}?{given}" if given else self._base + path

    def bind(self) -> None:
        """Belong to the running event loop; raises `WrongEventLoop` in another one, and `ClientClosed`."""
        self._check_loop()
        if self._closed.is_set():
            raise ClientClosed("the client is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._pooled = self._session(force_close=False)
            self._fresh = self._session(force_close=True)
            self._permits = asyncio.Semaphore(self.limits.connections)

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise WrongEventLoop(
                "this client belongs to the event loop in which it was first used: make another client in each loop"
            )

    def _session(self, *, force_close: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=force_close, ssl=self._ssl),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s, sock_read=self.limits.idle_s),
        )

    async def close(self) -> None:
        """End all calls and streams with `ClientClosed`, and give all connections back."""
        self._check_loop()
        self._closed.set()
        if self._map_reading is not None:
            self._map_reading.cancel()
            await asyncio.wait((self._map_reading,))
        if self._loop is not None:
            await self._pooled.close()
            await self._fresh.close()

    async def send(self, call: Call, deadline_s: float | None = None) -> Answer:
        """The answer of as many attempts as it takes and the deadline allows."""
        self.bind()
        course = _Course(call)
        budget_s = self.limits.deadline_s if deadline_s is None else deadline_s
        deadline = asyncio.get_running_loop().time() + budget_s
        scope = asyncio.timeout_at(deadline)
        try:
            async with scope:
                return await self._attempts(course, deadline)
        except TimeoutError:
            if not scope.expired():
                raise
            late = DeadlineExceeded(f"the deadline of {budget_s:g} s is over after {course.attempts} attempts")
            raise course.mark(late) from course.last
        except ClientError as error:
            course.mark(error)
            raise

    async def _attempts(self, course: _Course, deadline: float) -> Answer:
        while True:
            try:
                async with self._permits:
                    self.bind()
                    return await self._attempt(course)
            except ClientError as error:
                if not is_retryable(error):
                    raise
                course.last = error
                pause_s = self.wait_s(course.attempts, error.retry_after_s)
                if asyncio.get_running_loop().time() + pause_s >= deadline:
                    raise
            await self.pause(pause_s)

    async def _attempt(self, course: _Course) -> Answer:
        call = course.call
        owner = self._owner_of(call) if course.attempts == 0 else None
        url = call.url if owner is None else owner + call.url.removeprefix(self._base)
        session = self._fresh if course.attempts else self._pooled
        headers = {} if call.body is None else {"Content-Type": "application/json"}
        if call.idempotency_key is not None:
            headers["Idempotency-Key"] = call.idempotency_key
        before, is_command = course.outcome_unknown, call.method == "POST"
        course.attempts += 1
        course.outcome_unknown = is_command  # until an answer says otherwise
        try:
            async with session.request(
                call.method, url, data=call.body, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
        except _FAULTS as fault:
            if owner is not None:
                self._owners = None  # until the map is read again
            if isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                course.outcome_unknown = before  # no byte of the command has left
            raise self.failure(fault) from fault
        if response.status == 200:
            answer = Answer(_document(body), response.headers.get("Idempotent-Replayed") == "true")
            course.outcome_unknown = False
            return answer
        error = problem_error(response.status, body, retry_after_s(response.headers.get("Retry-After")))
        is_open = leaves_outcome_open(error)
        course.outcome_unknown = is_command and (before if is_open is None else is_open)
        raise error

    def _owner_of(self, call: Call) -> str | None:
        """The address of the worker that owns the call's thread, as the map was last read; has it read again when it is old."""
        if self._map_url is None or call.thread_id is None:
            return None
        age_s = asyncio.get_running_loop().time() - self._map_read_at
        if age_s > _MAP_AGE_S and (self._map_reading is None or self._map_reading.done()):
            self._map_reading = asyncio.create_task(self._read_map(self._map_url), name="owners")
        if self._owners is None or age_s > _MAP_AGE_MOST_S:
            return None
        return self._owners.address_of(call.thread_id)

    async def _read_map(self, map_url: str) -> None:
        """Read the map once; without an answer there is none until a later call."""
        self._map_read_at = asyncio.get_running_loop().time()
        owners, length = None, 0
        try:
            async with asyncio.timeout(_MAP_S), self._pooled.get(map_url, allow_redirects=False) as response:
                if response.status == 200:
                    chunks: list[bytes] = []
                    async for chunk in response.content.iter_any():
                        chunks.append(chunk)
                        length += len(chunk)
                        if length > _MAP_MOST:
                            break
                    else:
                        owners = owners_in(b"".join(chunks))
        except _FAULTS:
            owners = None
        self._owners = owners

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator["ByteStream | None"]:
        """An open stream of events; None where the server has no more of it (204).  Retries nothing."""
        self.bind()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s)
        response = None
        try:
            try:
                async with asyncio.timeout(self.limits.connect_s + self.limits.idle_s):
                    response = await self._fresh.get(
                        url, headers={"Accept": "text/event-stream"}, timeout=timeout, allow_redirects=False
                    )
                    body = b"" if response.status == 200 else await response.read()
            except _FAULTS as fault:
                raise self.failure(fault) from fault
            if response.status not in (200, 204):
                raise problem_error(response.status, body, retry_after_s(response.headers.get("Retry-After")))
            if response.status == 200 and response.content_type != "text/event-stream":
                raise UnexpectedAnswer(f"the answer is no stream of events, but {response.content_type}")
            yield ByteStream(self, response) if response.status == 200 else None
        finally:
            if response is not None:
                response.close()

    def failure(self, fault: BaseException) -> ClientError:
        """A connection fault as the caller sees it."""
        if self._closed.is_set():
            return ClientClosed("the client was closed during the call")
        return ConnectionFailed(str(fault) or type(fault).__name__)

    def wait_s(self, failures: int, floor_s: float | None) -> float:
        """Seconds to wait after this number of failures in a row."""
        return wait_s(failures, floor_s, random.random())  # noqa: S311  # not for secrets

    async def pause(self, seconds: float) -> None:
        """Wait; raises `ClientClosed` as soon as the client is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        self.bind()


class ByteStream:
    """The bytes of one stream, as they come."""

    def __init__(self, transport: Transport, response: aiohttp.ClientResponse) -> None:
        self._transport = transport
        self._response = response

    async def read(self) -> bytes:
        """The next bytes, or none at the end; raises `ConnectionFailed` when the connection is broken or silent."""
        idle_s = self._transport.limits.stream_idle_s
        try:
            async with asyncio.timeout(idle_s) as scope:
                return await self._response.content.readany()
        except _FAULTS as fault:
            if scope.expired():
                raise ConnectionFailed(f"no byte for {idle_s:g} s") from fault
            raise self._transport.failure(fault) from fault


def _expect_url(given: str, example: str) -> None:
    url = urlsplit(given)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError(f"{given!r} is no base URL: give one such as {example}")


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswer("the answer is no JSON") from error
    if not isinstance(document, dict):
        raise UnexpectedAnswer("the answer is no JSON object")
    return document
