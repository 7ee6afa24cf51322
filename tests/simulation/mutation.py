"""Plants a bug in a function by an edit of its source: the product's own code runs with one line changed.

An edit whose text is not found exactly once fails at once, so that a changed function cannot lose its bug silently.
"""

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import NamedTuple

import pytest


class Edit(NamedTuple):
    """One changed text in one function."""

    where: str
    """``module:function`` or ``module:Class.method``."""
    old: str
    new: str


class Replacement(NamedTuple):
    """Another function or value under a name."""

    where: str
    make: Callable[[], object]


@contextmanager
def planted(changes: Sequence[Edit | Replacement]) -> Iterator[None]:
    """The code with these changes."""
    sources: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        for change in changes:
            _, holder, name = _resolve(change.where)
            if isinstance(change, Replacement):
                patch.setattr(holder, name, change.make())
                continue
            source = sources.get(change.where) or textwrap.dedent(inspect.getsource(getattr(holder, name)))
            if source.count(change.old) != 1:
                raise LookupError(f"{change.old!r} is {source.count(change.old)} times in {change.where}")
            sources[change.where] = source.replace(change.old, change.new)
        for where, source in sources.items():
            module, holder, name = _resolve(where)
            patch.setattr(holder, name, _compiled(source, module, name))
        yield


def _resolve(where: str) -> tuple[ModuleType, object, str]:
    path, _, qualified = where.partition(":")
    module = importlib.import_module(path)
    *outer, name = qualified.split(".")
    holder: object = module
    for each in outer:
        holder = getattr(holder, each)
    return module, holder, name


def _compiled(source: str, module: ModuleType, name: str) -> object:
    """The function of a source text, with the module's own names."""
    made: dict[str, object] = {}
    exec(compile(source, f"<mutant of {module.__name__}>", "exec"), vars(module), made)  # our own source
    function = made[name]
    assert isinstance(function, FunctionType)
    return function
