"""JSON values: bytes to a Python value, as strictly as the API promises.

The standard library's decoder is the one fast decoder that can report duplicate names.  Beyond it, refused here: a
byte order mark, what is not UTF-8, NaN and Infinity, numbers of absurd length, nesting deeper than the interpreter
bears.  U+0000 can reach a string only as an escape, so one search of the bytes tells whether strings need a look at all.
"""

import json
from typing import Any, Final, NoReturn

from shard_worker.gateway.problems import Problem, ProblemCode, ProblemRaised


class _DuplicateName(Exception):
    """A JSON object has a name twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: a JSON value of any type
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _DuplicateName
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def malformed(detail: str) -> ProblemRaised:
    """400: the body is not JSON."""
    return ProblemRaised(Problem(code=ProblemCode.MALFORMED_JSON, detail=f"body: {detail}"))


def _decode_with_duplicates(text: str) -> tuple[object, list[str]]:
    twice: dict[str, None] = {}

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: a JSON value of any type
        value: dict[str, Any] = {}
        for name, member in pairs:
            if name in value:
                twice[name] = None
            value[name] = member
        return value

    value = json.JSONDecoder(object_pairs_hook=collect, parse_constant=_refuse_constant).decode(text)
    return value, [f"{name[:100]}: duplicate field" for name in twice]


def decode(raw: bytes) -> tuple[object, list[str]]:
    """The value of a body, and a failure for each name that an object has twice; raises `ProblemRaised`."""
    if not raw:
        raise malformed("is empty")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise malformed("begins with a byte order mark")
    try:
        text = raw.decode()
        try:
            return _DECODER.decode(text), []
        except _DuplicateName:
            return _decode_with_duplicates(text)
    except UnicodeDecodeError as error:
        raise malformed(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise malformed("is nested too deeply") from None
    except ValueError as error:
        raise malformed("has a number of too many digits" if "digits" in str(error) else str(error)) from None
