"""Logs are one event a line, whatever is in the line."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from shard_worker.logs import JsonLines, Readable, configure_logging

log = logging.getLogger("shard_worker.tests")


class Terminal(io.StringIO):
    """Standard error as a terminal, or as a pipe."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Whatever a test configured is taken back."""
    root, asyncios = logging.getLogger(), logging.getLogger("asyncio")
    handlers, level, asyncio_level = list(root.handlers), root.level, asyncios.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    asyncios.setLevel(asyncio_level)
    logging.captureWarnings(capture=False)


def record(event: str, failure: BaseException | None = None, /, **fields: object) -> logging.LogRecord:
    """The line of a log call."""
    info = (type(failure), failure, failure.__traceback__) if failure is not None else None
    return log.makeRecord("shard_worker.tests", logging.WARNING, "f.py", 1, event, (), info, extra=fields)


def test_a_line_of_json_has_its_event_and_its_fields() -> None:
    """Time, level, logger and event, and what the call gave besides."""
    line = json.loads(JsonLines().format(record("shard lost", shard=7, worker="w-0")))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "shard_worker.tests",
        "event": "shard lost",
        "shard": 7,
        "worker": "w-0",
    }


def test_a_field_never_takes_the_place_of_the_event() -> None:
    """A clash is shown beside it."""
    line = json.loads(JsonLines().format(record("stored", event="MessagesAdded", level=3)))
    assert (line["event"], line["_event"], line["level"], line["_level"]) == ("stored", "MessagesAdded", "warning", 3)


def test_a_cause_is_inside_the_json_line() -> None:
    """A traceback does not break the line."""
    text = JsonLines().format(record("failed", ValueError("no\nsuch"), shard=1))
    assert "\n" not in text
    assert "ValueError: no\nsuch" in json.loads(text)["cause"]


def test_a_cause_beside_a_field_of_that_name_is_its_traceback() -> None:
    """Both are kept."""
    line = json.loads(JsonLines().format(record("failed", KeyError("k"), cause="short")))
    assert (line["cause"], "KeyError" in line["traceback"]) == ("short", True)


@pytest.mark.parametrize(
    "value",
    ["\ud800", object(), b"\xff", {"a": {1, 2}}, float("inf"), {(1, 2): 3}],
    ids=["surrogate", "object", "bytes", "set", "infinity", "tuple-key"],
)
def test_any_value_makes_a_line_that_can_be_written(value: object) -> None:
    """A log call must not fail for what it is given."""
    line = JsonLines().format(record("event", value=value))
    assert line.isascii()
    assert "value" in json.loads(line, parse_constant=pytest.fail)


def test_the_readable_form_is_one_line_whatever_comes_in() -> None:
    """Line ends and escape sequences are shown, not obeyed."""
    line = Readable().format(record("odd\nevent", path="/\x1b[2J\r\n12:00:00 ERROR forged", next="\u2028", empty=""))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "odd\\nevent" in line
    assert line.endswith('next=\\u2028 empty=""')


def test_a_cause_is_below_the_readable_line_and_indented() -> None:
    """So the eye tells it from the next event."""
    first, *rest = Readable().format(record("failed", ValueError("no"))).splitlines()
    assert first.endswith("WARNING  failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_a_terminal_gets_text_and_a_pipe_gets_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a form was chosen."""
    seen = {}
    for tty, form in ((True, "auto"), (False, "auto"), (True, "json"), (False, "text")):
        monkeypatch.setattr(sys, "stderr", Terminal(tty=tty))
        configure_logging("info", form)  # type: ignore[arg-type]  # the literals of the loop
        log.info("event", extra={"shard": 1})
        log.debug("not shown")
        assert isinstance(sys.stderr, Terminal)
        [line] = sys.stderr.getvalue().splitlines()
        seen[tty, form] = line.startswith("{")
    assert seen == {(True, "auto"): False, (False, "auto"): True, (True, "json"): True, (False, "text"): False}


@pytest.mark.parametrize("form", [JsonLines(), Readable()], ids=["json", "readable"])
@pytest.mark.parametrize("given", [False, None, True, (None, None, None)], ids=repr)
def test_a_call_may_say_that_there_is_no_cause(form: logging.Formatter, given: object) -> None:
    """``exc_info=False`` is kept in the record as it is given; ``True`` outside of a handler is no cause either."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(form)
    logger = logging.Logger("one")
    logger.addHandler(handler)
    logger.warning("not reconciled", exc_info=given, extra={"key": "chat"})  # type: ignore[arg-type]  # what calls give
    assert "not reconciled" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1
