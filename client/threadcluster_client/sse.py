"""Server-sent events: bytes in, events out, without I/O.

Lines end at CR, LF or CRLF, and at nothing else: the text of a message may hold U+2028 and its like.  A line may be of any
length.
"""

import re
from typing import Final, NamedTuple

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One event of a stream; ``data`` is None where a position came alone."""

    id: str
    """The newest id of the stream, of this event or of one before."""
    type: str
    data: str | None


class FrameParser:
    """Cuts the bytes of one connection into frames; ``last_id`` is the position with which the connection was opened."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        """The newest `retry:` of the server."""
        self._line: list[bytes] = []
        """The pieces of a line that has not ended: joined once, so a long line takes linear time."""
        self._after_return = False
        self._first_line = True
        self._start_frame()

    def _start_frame(self) -> None:
        self._type = ""
        self._data: list[str] = []
        self._has_id = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        if self._after_return and chunk:
            # The return has ended its line already: a frame does not wait for the byte after it.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        if not chunk:
            return []
        self._after_return = chunk.endswith(b"\r")
        first, *others = _LINE_END.split(chunk)
        self._line.append(first)
        frames = []
        for following in others:
            frames += self._end_line()
            self._line = [following]
        return frames

    def _end_line(self) -> list[Frame]:
        line = b"".join(self._line)
        if self._first_line:
            line, self._first_line = line.removeprefix(_BYTE_ORDER_MARK), False
        if line:
            self._field(line)
            return []
        frame = Frame(self.last_id, self._type or "message", "\n".join(self._data) if self._data else None)
        complete = bool(self._data) or self._has_id
        self._start_frame()
        return [frame] if complete else []

    def _field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self.last_id, self._has_id = value, True
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:9])
