"""Failures: what is wrong with one part of a request.

A 400 lists all of them twice: as sentences in ``error_messages``, the list of the reference, and for programs in ``errors``.
"""

from enum import StrEnum
from typing import Final, NamedTuple

ULID_FORM: Final = "must be a ULID: 26 Crockford characters, the first at most 7"

NAME_MOST: Final = 100
"""Characters of a client's name of a field or parameter that an answer repeats."""


class FailureCode(StrEnum):
    """Values of ``code`` in an entry of ``errors``."""

    MALFORMED_JSON = "malformed-json"
    REQUIRED = "required"
    UNKNOWN = "unknown"
    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"
    WRONG_TYPE = "wrong-type"
    WRONG_FORMAT = "wrong-format"
    WRONG_LENGTH = "wrong-length"
    OUT_OF_RANGE = "out-of-range"
    FORBIDDEN_CHARACTERS = "forbidden-characters"
    RESERVED = "reserved"
    FOREIGN = "foreign"
    NOT_FOUND = "not-found"
    TOO_COMPLEX = "too-complex"
    INVALID = "invalid"


class Failure(NamedTuple):
    """A fault of one part of a request."""

    place: str
    """The part in the sentence, such as ``messages[0].text``; empty when the detail names it."""
    code: FailureCode
    detail: str
    pointer: str
    """The part for programs: a JSON pointer into the body, or the name of a parameter or a header field."""

    @property
    def sentence(self) -> str:
        """The failure as one entry of ``error_messages``."""
        return f"{self.place}: {self.detail}" if self.place else self.detail


Location = tuple[int | str, ...]
"""The way from a body to one of its parts: names of fields and indexes of arrays."""


def pointer_to(location: Location) -> str:
    """The JSON pointer (RFC 6901) of a part of a body."""
    return "".join(
        f"/{step}" if isinstance(step, int) else "/" + step[:NAME_MOST].replace("~", "~0").replace("/", "~1")
        for step in location
    )


def of_body(code: FailureCode, detail: str) -> Failure:
    """A failure of the body as a whole."""
    return Failure("body", code, detail, "")


def of_field(location: Location, code: FailureCode, detail: str) -> Failure:
    """A failure of a part of the body."""
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            place += f".{step[:NAME_MOST]}" if place else step[:NAME_MOST]
    return Failure(place or "body", code, detail, pointer_to(location))


def of_parameter(name: str, code: FailureCode, detail: str) -> Failure:
    """A failure of a query parameter or a header field."""
    return Failure(name, code, detail, name)


def unknown_parameter(name: str) -> Failure:
    """A query parameter that the request does not have."""
    return of_parameter(name[:NAME_MOST], FailureCode.UNKNOWN, "is not a parameter of this request")


def given_twice(name: str) -> Failure:
    """A parameter or header field that may be given once."""
    return of_parameter(name, FailureCode.DUPLICATE, "was given twice")
