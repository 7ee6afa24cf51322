"""Failures of a resource, in the words of the API server: pydantic's own are those of a Python program."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

_WORDS: Final[Mapping[str, str]] = {
    "bool_type": "must be of type boolean",
    "int_type": "must be of type integer",
    "string_type": "must be of type string",
    "list_type": "must be of type array",
    "dict_type": "must be of type object",
    "model_type": "must be of type object",
    "missing": "Required value",
    "greater_than_equal": "should be greater than or equal to {ge}",
    "less_than_equal": "should be less than or equal to {le}",
    "string_too_short": "should be at least {min_length} chars long",
    "string_too_long": "may not be longer than {max_length} chars",
    "string_pattern_mismatch": "should match {pattern}",
    "too_long": "must have at most {max_length} items",
    "literal_error": "Unsupported value, supported are {expected}",
}
"""By pydantic's type of a failure; a failure of another type says what is wrong itself."""

_ALIKE: Final = 0.65
"""Least likeness of two words of which one may be meant, of 1: difflib's own 0.6 takes `colour` for `rollout`."""


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """``; did you mean …?`` for a word that is close to a known one, else nothing."""
    by_lower = {each.lower(): each for each in known}
    close = get_close_matches(str(given).lower(), by_lower, n=1, cutoff=_ALIKE)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def failure(item: Mapping[str, Any], model: type[BaseModel], *outer: str) -> str:
    """One failure of pydantic's at a document of ``model``, which lies at the path ``outer``: "field: reason"."""
    path = ".".join(str(part) for part in (*outer, *item["loc"]))
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{path}: unknown field{_intended(model, item['loc'], outer)}"
    reason = _WORDS[kind].format_map(context) if kind in _WORDS else item["msg"]
    if given is None or kind == "missing":
        return f"{path}: {reason}"
    hint = did_you_mean(given, re.findall(r"'([^']*)'", context["expected"])) if kind == "literal_error" else ""
    return f"{path}: {reason} (given: {given!r}){hint}"


def _intended(model: type[BaseModel], loc: Sequence[str | int], outer: Sequence[str]) -> str:
    """The known field that an unknown one may be: one beside it with nearly its name, else one elsewhere with its name."""
    name, part = str(loc[-1]), _part_at(model, loc[:-1])
    hint = did_you_mean(name, (str(field.alias) for field in part.model_fields.values())) if part is not None else ""
    if hint:
        return hint
    elsewhere = next((path for path in _paths(model) if path[-1] == name), None)
    return f"; did you mean {'.'.join((*outer, *elsewhere))}?" if elsewhere is not None else ""


def _part_at(model: type[BaseModel], loc: Iterable[str | int]) -> type[BaseModel] | None:
    """The model of the part at a path; None where the path leads into a map."""
    part: type[BaseModel] | None = model
    for step in loc:
        if isinstance(step, str) and part is not None:
            part = next((_part_in(each.annotation) for each in part.model_fields.values() if each.alias == step), None)
    return part


def _part_in(annotation: object) -> type[BaseModel] | None:
    """The model in the type of a field: of its value, or of the items of its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = () if get_origin(annotation) is dict else get_args(annotation)
    return next((found for each in inner if (found := _part_in(each)) is not None), None)


def _paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """The path of every field, those with fewer steps first."""
    level: list[tuple[tuple[str, ...], type[BaseModel]]] = [((), model)]
    while level:
        fields = [
            ((*path, str(f.alias)), _part_in(f.annotation)) for path, part in level for f in part.model_fields.values()
        ]
        yield from (path for path, _ in fields)
        level = [(path, part) for path, part in fields if part is not None]
