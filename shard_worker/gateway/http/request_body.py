"""Uploads: the bytes of a body, within its limit and its time.

A body that came with its head, nearly every one, is taken without waiting and without a timer.  Only one that is still
on its way gets a deadline, and it is the whole request's, counted from its first byte.
"""

import asyncio
from typing import Final

from aiohttp import HttpVersion10, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException
from aiohttp.web_protocol import RequestPayloadError

from shard_worker.gateway.http.connection import GatewayConnection
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import Problem, ProblemCode, ProblemRaised

BODY_LIMIT_BYTES: Final = 1024 * 1024
"""The largest body of all; exactly so much is still allowed."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


_MEDIA_TYPE_MOST: Final = 100
"""Characters of a ``Content-Type`` that is looked into; the longest good spelling has half as many."""


def is_json(content_type: str) -> bool:
    """Whether a value of ``Content-Type`` is JSON in UTF-8."""
    if len(content_type) > _MEDIA_TYPE_MOST:
        return False
    media_type, *parameters = [part.strip().lower() for part in content_type.split(";")]
    if media_type != "application/json":
        return False
    return all(parameter in ("charset=utf-8", 'charset="utf-8"') for parameter in parameters)


def check_media_type(request: web.BaseRequest) -> None:
    """Raise 415 unless the body is plain JSON."""
    headers = request.headers
    content_type = headers.get(hdrs.CONTENT_TYPE)
    if content_type != "application/json" and (content_type is None or not is_json(content_type)):
        what = "must be application/json, with or without charset=utf-8"
        raise ProblemRaised(Problem(code=ProblemCode.UNSUPPORTED_MEDIA_TYPE, detail=f"Content-Type: {what}"))
    if hdrs.CONTENT_ENCODING in headers:
        raise ProblemRaised(
            Problem(code=ProblemCode.UNSUPPORTED_MEDIA_TYPE, detail="Content-Encoding: must be left out")
        )


async def read_body(request: web.BaseRequest, options: GatewayOptions, limit_bytes: int = BODY_LIMIT_BYTES) -> bytes:
    """The whole body; raises 400 for bad chunks, 408 when it stops coming, 413 over the limit."""
    content = request.content
    if content.is_eof() and content.exception() is None:
        body = content.read_nowait(-1) if content.total_bytes else b""
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body
    return await _wait_for_body(request, options, limit_bytes)


def _too_large(limit_bytes: int) -> ProblemRaised:
    detail = f"body: must have at most {limit_bytes} bytes"
    return ProblemRaised(Problem(code=ProblemCode.BODY_TOO_LARGE, detail=detail, close=True))


def _fresh(error: Exception, options: GatewayOptions) -> Exception:
    """The error to raise for one that ended the reading of a body: not the object that the reader keeps.

    An error that is none of the client's or the connection's is a fault of ours: it stays as it is, and is answered 500.
    """
    if isinstance(error, TimeoutError):
        detail = f"the body did not arrive within {options.request_timeout_s:g} s"
        return ProblemRaised(Problem(code=ProblemCode.REQUEST_TIMEOUT, detail=detail, close=True))
    if isinstance(error, HttpProcessingError | HTTPException | RequestPayloadError):
        detail = "body: its transfer encoding is broken, or it ended early"
        return ProblemRaised(Problem(code=ProblemCode.MALFORMED_HTTP, detail=detail, close=True))
    if isinstance(error, ProblemRaised):
        return ProblemRaised(error.problem)
    return ConnectionResetError(str(error)) if isinstance(error, ConnectionError) else error


async def _wait_for_body(request: web.BaseRequest, options: GatewayOptions, limit_bytes: int) -> bytes:
    content = request.content
    if (request.content_length or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    protocol = request.protocol
    expects = request.version != HttpVersion10 and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if expects and not content.total_bytes and protocol.transport is not None:
        protocol.transport.write(_CONTINUE)
    loop = asyncio.get_running_loop()
    body = bytearray()
    begun = 0.0
    if isinstance(protocol, GatewayConnection):
        begun = protocol.request_since
        protocol.reading = content, body
    try:
        async with asyncio.timeout_at((begun or loop.time()) + options.request_timeout_s):
            while chunk := await content.readany():
                body += chunk
                if len(body) > limit_bytes:
                    raise _too_large(limit_bytes)
    except Exception as error:  # noqa: BLE001 - raised again, as an object that the reader does not keep
        # aiohttp's reader waited on a future that keeps the error; its traceback keeps the reader's frames, and these
        # keep the future.  Such a cycle would hold the received bytes until a full collection, which is rare here.
        error.__traceback__ = None
        body.clear()
        raise _fresh(error, options) from None
    except BaseException:
        body.clear()  # a cancellation may be kept with its traceback, and with it this frame
        raise
    finally:
        if isinstance(protocol, GatewayConnection):
            protocol.reading = None
    return bytes(body)
