"""Streams of events: an iterator that goes on through lost connections, misses nothing and repeats nothing.

The iterator resumes at its position after each fault, for as long as it takes.  A refusal ends it, and so does the end of
the thread.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any, Final, Self

from threadcluster_client.errors import ClientError, ThreadPoisoned, UnexpectedAnswer, is_retryable, problem_error
from threadcluster_client.models import Event, Item, Reset, ThreadFailed
from threadcluster_client.repeats import SeenEvents
from threadcluster_client.sse import Frame, FrameParser
from threadcluster_client.transport import Transport

log = logging.getLogger(__name__)

_STEADY_S: Final = 5.0
"""A connection that lived longer was a good one: the next wait is a short one again."""


class Follow:
    """An async iterator of `Item`; also a context manager, which gives the connection back at its end."""

    def __init__(
        self, transport: Transport, path: str, *, account_id: str | None = None, position: str | None = None
    ) -> None:
        self._transport = transport
        self._path = path
        self._account_id = account_id
        self._of_account = account_id is None
        self._position = position
        self._seen = SeenEvents()
        self._failures = 0
        self._items = self._run()

    @property
    def position(self) -> str | None:
        """Following from here misses nothing that comes after the items taken so far; None before the stream has begun."""
        return self._position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        self._transport.bind()
        try:
            return await anext(self._items)
        except asyncio.CancelledError:
            # A caller that gives up waiting may ask again: the cancellation has ended the generator, not the stream.
            self._items = self._run()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream and give its connection back."""
        await self._items.aclose()

    async def _run(self) -> AsyncGenerator[Item, None]:
        while True:
            floor_s: float | None = None
            began = asyncio.get_running_loop().time()
            parser = FrameParser(self._position or "")
            try:
                url = self._transport.url(self._path, {"account_id": self._account_id, "after": self._position})
                async with self._transport.stream(url) as stream:
                    if stream is None:
                        return
                    while chunk := await stream.read():
                        for item in self._new_items(parser.feed(chunk)):
                            yield item
                            if self._is_last(item):
                                return
            except ClientError as error:
                if not is_retryable(error) or isinstance(error, ThreadPoisoned):
                    raise
                floor_s = error.retry_after_s
                log.warning("%s was lost at position %s: %s", self._path, self._position, error)
            self._transport.bind()
            if asyncio.get_running_loop().time() - began > _STEADY_S:
                self._failures = 0
            self._failures += 1
            if parser.retry_ms is not None:
                floor_s = max(floor_s or 0.0, parser.retry_ms / 1000)
            await self._transport.pause(self._transport.wait_s(self._failures, floor_s))

    def _is_last(self, item: Item) -> bool:
        return isinstance(item, Event) and item.type == "ThreadDestroyed" and not self._of_account

    def _new_items(self, frames: Iterable[Frame]) -> Iterator[Item]:
        for frame in frames:
            # Only now: the caller has taken the items of the frames before this one.
            self._position = frame.id or self._position
            item = None if frame.data is None else self._item(frame.type, frame.data)
            if item is not None:
                self._failures = 0
                yield item

    def _item(self, kind: str, text: str) -> Item | None:
        try:
            data = json.loads(text)
            if kind == "error":
                return self._failed(data, text)
            return self._reset(data) if kind == "reset" else self._event(kind, data)
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise UnexpectedAnswer(f"an event of type {kind} that is not of this API: {error!r}") from error

    def _event(self, kind: str, data: Mapping[str, Any]) -> Event | None:
        event = Event(kind, data["threadId"], data["sequenceNr"], data["epoch"], data, self._position or "")
        return event if self._seen.add(event.thread_id, event.sequence_nr, event.epoch) else None

    def _reset(self, data: Mapping[str, Any]) -> Reset:
        self._seen.reset()
        if data["threadId"] is not None:
            self._seen.add(data["threadId"], data["sequenceNr"], data["epoch"])
        return Reset(data["threadId"], self._position or "")

    def _failed(self, data: Mapping[str, Any], text: str) -> ThreadFailed:
        error = problem_error(data["status"], text)
        if self._of_account and error.thread_id is not None:
            return ThreadFailed(error.thread_id, error, self._position or "")
        raise error
