"""Logs: one event a line, JSON for machines and readable on a terminal; fields come from ``extra``.

No secret and no message text is ever given to a log call; nothing here could remove one.  A field cannot break its
line: JSON escapes it, and the readable form shows control characters as what they are, so that a field that came from
outside neither forges a second event nor controls a terminal.
"""

import json
import logging
import sys
import time
from typing import Final, Literal

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the fields; a cause last.

    A field named like one of these four is shown with an underscore before it, never in its place.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[name if name not in line else f"_{name}"] = value
        cause = _cause(self, record)
        if cause:
            line["cause" if "cause" not in line else "traceback"] = cause
        # ASCII: whatever the encoding of standard error, the line is written, lone surrogates included.
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except (TypeError, ValueError):  # a key or a number that JSON does not have
            return json.dumps({name: str(value) for name, value in line.items()})


class Readable(logging.Formatter):
    """For people: time, level, event, fields; a cause in the lines below, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_shown(value)}" for name, value in _fields(record).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        event = record.getMessage().translate(_CONTROLS)
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<8} {event}  {fields}".rstrip()
        cause = _cause(self, record)
        return "\n    ".join((line, *cause.splitlines())) if cause else line


def _shown(value: object) -> str:
    text = str(value).translate(_CONTROLS)
    return text if text and " " not in text else f'"{text}"'


def _cause(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:  # ``exc_info=False`` is kept as it is given
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def configure_logging(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Send this process's logs, Python's warnings included, to standard error in one of the forms.

    ``auto`` is text on a terminal and JSON elsewhere.
    """
    handler = logging.StreamHandler(sys.stderr)
    readable = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(Readable() if readable else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
