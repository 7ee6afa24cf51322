"""CORS: which pages of other origins may call the API.  Off unless origins are configured."""

from typing import Final

from aiohttp import hdrs, web

_PREFLIGHT: Final = (
    b"Access-Control-Allow-Headers: Content-Type, Idempotency-Key, Last-Event-ID\r\nAccess-Control-Max-Age: 600\r\n"
)


class Cors:
    """Answers the questions browsers ask; without credentials, since the API has none."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self.vary: Final = b"" if self._any else b"Vary: Origin\r\n"
        """The header fields of an answer to a request without ``Origin``."""

    def _allows(self, request: web.BaseRequest) -> str | None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not (self._any or origin in self._origins):
            return None
        return "*" if self._any else origin

    def fields(self, request: web.BaseRequest) -> bytes:
        """The header fields of every answer."""
        allowed = self._allows(request)
        if allowed is None:
            return self.vary
        exposed = b"Access-Control-Expose-Headers: Retry-After, Allow, Idempotent-Replayed\r\n"
        return self.vary + b"Access-Control-Allow-Origin: %b\r\n" % allowed.encode() + exposed

    def preflight_fields(self, request: web.BaseRequest, allow: str) -> bytes:
        """The further fields of the answer to a preflight; ``allow`` is the path's methods."""
        if self._allows(request) is None or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return b""
        return b"Access-Control-Allow-Methods: %b\r\n" % allow.encode() + _PREFLIGHT
