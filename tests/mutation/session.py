"""Runs mutants in one warm pytest: all tests are collected once, and each mutant is a fork that runs a few of them.

A mutant is planted in the fork: its function's code is swapped in every live function object, its constant in every module
that imported it.  Of the tests only those run that reach the changed lines, the quickest first, until one fails.  The parent
never runs a test, so that no fork inherits what another test left behind.
"""

import gc
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import coverage
import msgspec
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.operators import Mutant
from tests.mutation.planting import Functions, live_functions, plant, plant_number

KILLED: Final = "killed"
SURVIVED: Final = "survived"
UNREACHED: Final = "unreached"
"""No test reaches the changed lines."""

_CPU_S: Final = 4.0
"""CPU time that a test may take with a mutant, beyond ten times its own; a mutant that loops is killed by it."""
_MEMORY: Final = 3 << 30


class Reach(msgspec.Struct):
    """The lines that the tests reach, and how long each takes."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    """By file and line, the tests."""


class Session:
    """The plugin that takes over the run of collected tests."""

    def __init__(self, files: Sequence[Path], reach_file: Path, work: Callable[["Session"], None]) -> None:
        self._files = files
        self._reach_file = reach_file
        self._work = work
        self._items: dict[str, pytest.Item] = {}
        self._functions: Functions = {}
        self.reach = Reach({}, {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of the tests, the mutants."""
        if session.testsfailed:
            raise session.Interrupted("the tests were not collected")
        self._items = {item.nodeid: item for item in session.items}
        self._functions = live_functions()
        self.reach = self._measure()
        gc.freeze()
        self._work(self)
        return True

    def _measure(self) -> Reach:
        """The lines that each test reaches; from the file of an earlier run where nothing has changed since."""
        if self._reach_file.exists():
            return msgspec.json.decode(self._reach_file.read_bytes(), type=Reach)
        print(f"mutation: what do {len(self._items)} tests reach?", flush=True)
        if not _in_fork(self._record, quietly=False):
            raise pytest.exit.Exception("the tests fail without a mutant", returncode=1)
        return msgspec.json.decode(self._reach_file.read_bytes(), type=Reach)

    def _record(self) -> bool:
        measured = coverage.Coverage(data_file=None, include=[str(path) for path in self._files])
        seconds = {}
        measured.start()
        for name, item in self._items.items():
            measured.switch_context(name)
            began = time.process_time()
            if not _passes(item):
                os.write(2, f"{name} fails without a mutant\n".encode())
                return False
            seconds[name] = time.process_time() - began
        measured.stop()
        data = measured.get_data()
        lines = {
            name: {line: tests for line, tests in data.contexts_by_lineno(name).items() if any(tests)}
            for name in data.measured_files()
        }
        self._reach_file.parent.mkdir(parents=True, exist_ok=True)
        self._reach_file.write_bytes(msgspec.json.encode(Reach(seconds, lines)))
        return True

    def outcome(self, file: Path, mutant: Mutant) -> str:
        """Whether the tests notice a mutant."""
        tests = self._tests_of(file, mutant)
        if not tests:
            return UNREACHED
        return SURVIVED if _in_fork(lambda: self._survives(file, mutant, tests), quietly=True) else KILLED

    def _tests_of(self, file: Path, mutant: Mutant) -> list[str]:
        lines: Mapping[int, list[str]] = self.reach.lines.get(str(file), {})

        def reaching(reached: Iterable[int]) -> set[str]:
            return {test for line in reached for test in lines.get(line, ()) if test in self._items}

        if mutant.number is None:
            found = reaching(mutant.lines) or reaching(mutant.statement)
        else:  # a test that only compares a number runs no line of the module
            files = {_file(test) for test in reaching(lines)}
            found = {test for test in self._items if _file(test) in files}
        # Tests that are named for the module know most of it; the others reach it on the way to something else.
        return sorted(found, key=lambda test: (file.stem not in _file(test), self.reach.seconds[test], test))

    def _survives(self, file: Path, mutant: Mutant, tests: Sequence[str]) -> bool:
        if mutant.number is None:
            plant(self._functions, mutant.compiled(), mutant.function)
        else:
            plant_number(file, mutant.function, mutant.number)
        for test in tests:
            limit = time.process_time() + _CPU_S + 10 * self.reach.seconds[test]
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, resource.RLIM_INFINITY))
            if not _passes(self._items[test]):
                return False
        return True


def _file(test: str) -> str:
    return test.partition("::")[0]


def _passes(item: pytest.Item) -> bool:
    reports: list[Any] = runtestprotocol(item, nextitem=None, log=False)
    return not any(report.failed for report in reports)


def _in_fork(run: Callable[[], bool], *, quietly: bool) -> bool:
    """Whether ``run`` is true in a fork, within its memory; quietly: it prints no error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            if quietly:
                os.dup2(nowhere, 2)
                resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = 0 if run() else 1
        finally:
            os._exit(code)  # also after an error: no fork goes on as pytest
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0
