"""Validation: a JSON value against its body, and every failure as a sentence a client's author can act on.

The happy path is one call into pydantic.  Only when it fails are sentences made; each begins with the field's path in
the names of the JSON, such as ``messages[0].text``.  A value the client sent is never repeated.

`faultless` is a short cut for most bodies: pydantic reads the bytes itself, 2 µs sooner.  It may refuse what `validate`
accepts, never the other way round.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from shard_worker.gateway.bodies import CommandBody

Body = TypeVar("Body", bound=CommandBody)

_Context = dict[str, Any]  # Any: pydantic's, of the failure's own parameters

_SENTENCES: Final[dict[str, Callable[[_Context], str]]] = {
    "missing": lambda _: "is required",
    "extra_forbidden": lambda _: "is not a field of this request",
    "string_type": lambda _: "must be a string",
    "string_unicode": lambda _: "must not contain lone surrogates",
    "string_pattern_mismatch": lambda _: "must be a ULID: 26 Crockford characters, the first at most 7",
    "int_type": lambda _: "must be an integer without fraction or exponent",
    "int_parsing_size": lambda _: "is out of range",
    "list_type": lambda _: "must be an array",
    "model_type": lambda _: "must be an object",
    "model_attributes_type": lambda _: "must be an object",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "too_short": lambda context: f"must have at least {context['min_length']} element(s)",
    "too_long": lambda context: f"must have at most {context['max_length']} elements",
    "invalid_key": lambda _: "is not a field of this request",
}


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:100]}" if path else step[:100]
    return path or "body"


def _sentences(error: ValidationError) -> list[str]:
    sentences = []
    for failure in error.errors(include_url=False, include_input=False):
        sentence = _SENTENCES.get(failure["type"])
        what = sentence(failure.get("ctx", {})) if sentence else failure["msg"]
        sentences.append(f"{_path(failure['loc'])}: {what}")
    return sentences


def _with_printable_names(value: object) -> object:
    if isinstance(value, dict):
        return {name.encode("utf-8", "replace").decode(): _with_printable_names(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_printable_names(each) for each in value]
    return value


def _past_bad_names(body: type[CommandBody], value: object, error: ValidationError) -> ValidationError:
    """Pydantic stops at a name with a lone surrogate; with that name made printable it finds the rest as well."""
    if any(failure["type"] == "string_unicode" for failure in error.errors(include_url=False, include_input=False)):
        try:
            body.__pydantic_validator__.validate_python(_with_printable_names(value))
        except ValidationError as fuller:
            return fuller
    return error


def faultless(body: type[Body], raw: bytes) -> Body | None:
    """The body in ``raw`` when there is nothing to object to; None when that takes a closer look.

    Pydantic takes the last of two equal names.  Each name has its colon, so as many colons as names that were set mean
    that no name came twice, and that no string holds one.
    """
    try:
        valid = body.__pydantic_validator__.validate_json(raw)
    except ValidationError:
        return None
    return valid if valid.names() == raw.count(b":") else None


def validate(body: type[Body], value: object) -> tuple[Body | None, list[str]]:
    """The body a JSON value is, or all that is wrong with it."""
    cross = body.cross_failures(value) if isinstance(value, dict) else []
    try:
        valid = body.__pydantic_validator__.validate_python(value)
    except ValidationError as error:
        return None, _sentences(_past_bad_names(body, value, error)) + cross
    return (None, cross) if cross else (valid, cross)
