"""Puts a mutant in the place of the code that runs: in every live function object, wherever it was imported to."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType

Functions = dict[tuple[str, str, int], list[FunctionType]]
"""By file, qualified name and first line."""


def live_functions() -> Functions:
    """Every function object that there is."""
    found: Functions = {}
    for each in gc.get_objects():
        if isinstance(each, FunctionType):
            found.setdefault(_key(each.__code__), []).append(each)
    return found


def plant(functions: Functions, module: CodeType, qualified: str) -> list[tuple[FunctionType, CodeType]]:
    """Give a function the code that it has in a changed module; what it had before, by function object."""
    before = []
    for code in _codes(module):
        if code.co_qualname == qualified:
            for function in functions.get(_key(code), ()):
                before.append((function, function.__code__))
                function.__code__ = code
    assert before, f"no function {qualified}"
    return before


@contextmanager
def planted(file: Path, qualified: str, source: str) -> Iterator[None]:
    """A function as it is in another text of its file, whose lines are the same."""
    before = plant(live_functions(), compile(source, str(file), "exec"), qualified)
    try:
        yield
    finally:
        for function, code in before:
            function.__code__ = code


def plant_number(file: Path, name: str, number: float) -> None:
    """Change a constant in its module, and wherever it was imported to."""
    defining = next(module for module in sys.modules.values() if getattr(module, "__file__", None) == str(file))
    old = vars(defining)[name]
    for module in list(sys.modules.values()):
        if vars(module).get(name) is old:
            setattr(module, name, number)


def _key(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)
