"""JSON values: bytes to a Python value, as strictly as the API promises.

The standard library's decoder is the one fast decoder that can report duplicate names.  Beyond it, refused here: a
byte order mark, what is not UTF-8, NaN and Infinity, numbers of absurd length, nesting deeper than the interpreter
bears.  U+0000 can reach a string only as an escape, so one search of the bytes tells whether strings need a look at all.
"""

import json
from collections.abc import Iterable, Set
from typing import Any, Final, NoReturn

from shard_worker.gateway.http.failures import NAME_MOST, Failure, FailureCode, of_body, pointer_to
from shard_worker.gateway.http.problems import Problem, ProblemCode, ProblemRaised

DIGITS_MOST: Final = 500
"""Digits of an integer; converting takes time that grows with their square, and no field has more than 19."""


def _integer(text: str) -> int:
    if len(text) > DIGITS_MOST:
        raise ValueError(f"an integer has more than {DIGITS_MOST} digits")
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_POINTER_MOST: Final = 1_000
"""Characters of a pointer to an object; no body of the API is nested so deeply."""


class _StrictDecoder:
    """The standard library's decoder, and the names that an object had twice, each with the first such object.

    Decoding never awaits, so one will do.
    """

    def __init__(self) -> None:
        self.twice: dict[str, dict[str, Any]] = {}  # Any: as below
        self.decode: Final = json.JSONDecoder(
            object_pairs_hook=self._object, parse_int=_integer, parse_constant=_refuse_constant
        ).decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: a JSON value of any type
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    self.twice.setdefault(name, value)
                seen.add(name)
        return value


_DECODER: Final = _StrictDecoder()


def malformed(detail: str) -> ProblemRaised:
    """400: the body is not JSON."""
    failure = of_body(FailureCode.MALFORMED_JSON, detail)
    return ProblemRaised(Problem(code=ProblemCode.MALFORMED_JSON, detail=failure.sentence, errors=(failure,)))


def _pointers(value: object, wanted: Set[int]) -> dict[int, str]:
    """The pointer to each of the ``wanted`` objects of a value, by the object's identity, as far as `_POINTER_MOST` allows.

    Without recursion, and no pointer is longer than its bound: a body may be nested deeply under long names, and have a failure in each
    object.
    """
    found: dict[int, str] = {}
    waiting: list[tuple[object, str]] = [(value, "")]
    while waiting:
        part, at = waiting.pop()
        members: Iterable[tuple[int | str, object]] = ()
        if isinstance(part, dict):
            if id(part) in wanted:
                found[id(part)] = at
            members = part.items()
        elif isinstance(part, list):
            members = enumerate(part)
        for step, member in members:
            if isinstance(member, dict | list):
                below = at + pointer_to((step,))
                if len(below) <= _POINTER_MOST:
                    waiting.append((member, below))
    return found


def _given_twice(value: object, twice: dict[str, dict[str, Any]]) -> list[Failure]:  # Any: a JSON value
    """The failure of each name that an object had twice.

    An object that a second field of one name replaced is nowhere in the value, and one that is too deep has too long a pointer: its
    place is the body.
    """
    if not twice:
        return []
    pointers = _pointers(value, {id(within) for within in twice.values()})
    failures = []
    for name, within in twice.items():
        at = pointers.get(id(within))
        pointer = "" if at is None else at + pointer_to((name,))
        failures.append(Failure(name[:NAME_MOST], FailureCode.DUPLICATE, "duplicate field", pointer))
    return failures


def decode(raw: bytes) -> tuple[object, list[Failure]]:
    """The value of a body, and a failure for each name that an object has twice; raises `ProblemRaised`."""
    if not raw:
        raise malformed("is empty")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise malformed("begins with a byte order mark")
    try:
        text = raw.decode()
        _DECODER.twice = {}
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise malformed(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise malformed("is nested too deeply") from None
    except ValueError as error:
        raise malformed(str(error)) from None
    twice, _DECODER.twice = _DECODER.twice, {}
    return value, _given_twice(value, twice)
