"""The source tree: files and names that must never appear in it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest


def tracked() -> list[Path]:
    """Every file of the project."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines() if Path(line).exists()]


def test_the_operator_folder_never_shadows_the_standard_library() -> None:
    """`operator/` is a plain folder; a package there would break every program run from the root."""
    assert not Path("operator/__init__.py").exists()
    shown = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.add(1, 2))"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "3"


def test_files_are_named_for_what_they_hold() -> None:
    """No drawer for leftovers."""
    names = re.compile(r"(utils?|helpers?|common|misc|manager|base)\.py")
    assert not [path for path in tracked() if names.fullmatch(path.name)]


def test_the_lock_file_names_no_index_and_pins_every_package_by_hash() -> None:
    """It installs the same bytes from wherever the user's pip looks."""
    text = Path("requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    packages = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())
    assert len(packages) > 30
    assert all("==" in package and "--hash=sha256:" in package for package in packages)


def _cycle(graph: grimp.ImportGraph, found: set[str], start: str) -> list[str]:
    """The modules of a cycle through ``start``, or an empty list; ``found`` gets the modules that are in no cycle."""
    path: list[str] = []
    todo = [(start, False)]
    while todo:
        module, left = todo.pop()
        if left:
            found.add(path.pop())
        elif module in path:
            return path[path.index(module) :]
        elif module not in found:
            path.append(module)
            todo.append((module, True))
            todo += [(each, False) for each in sorted(graph.find_modules_directly_imported_by(module))]
    return []


@pytest.mark.parametrize("package", ["shard_worker", "threadcluster_client", "threadcluster_operator"])
def test_no_modules_import_each_other(package: str) -> None:
    """Not in a circle of files either, and not for types alone: each file can be read after those that it imports."""
    graph = grimp.build_graph(package, cache_dir=None)
    found: set[str] = set()
    assert not [cycle for module in sorted(graph.modules) if (cycle := _cycle(graph, found, module))]


def test_a_cycle_of_imports_is_found() -> None:
    """The check sees a circle of three, also behind modules that are in none."""
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("a", "e"), ("c", "e")):
        graph.add_import(importer=importer, imported=imported)
    assert sorted(_cycle(graph, set(), "a")) == ["b", "c", "d"]
    assert _cycle(graph, set(), "e") == []


@pytest.mark.parametrize("program", ["threadcluster_operator.main", "shard_worker.main"])
def test_the_programs_explain_themselves(program: str) -> None:
    """`--help` works from anywhere and says what the program is for."""
    shown = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
    assert "Commands:" in shown.stdout


SHARED = ("fakes", "support")
"""Folders of tests from which every other one may import; these two import from each other alone."""


def _imported(path: Path) -> Iterator[str]:
    """The modules of the tests that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
            folder = Path(*(node.module or "").split("."))
            yield from (f"{node.module}.{name.name}" if folder.is_dir() else str(node.module) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "tests")


def _may_import(path: Path, imported: str) -> bool:
    """Whether the parts of a path and of a module's name allow it."""
    own = path.parts[1] if len(path.parts) > 2 else None
    _, top, *_ = parts = imported.split(".")
    if own == "mutation":  # it is about the tests of the others: each of its bugs names the one that must fail
        return True
    if parts[-1].startswith("test_"):
        return False
    return top in (*SHARED, own) or (top == "conftest" and own not in SHARED)


def test_tests_import_only_their_own_folder_and_what_is_shared() -> None:
    """No test imports another one, and a change of one folder's helpers breaks no other folder's tests.

    A folder is one directly below tests: the parts of tests/e2e and of tests/operator share their helpers.
    """
    found = [
        f"{path} imports {imported}"
        for path in tracked()
        if path.suffix == ".py" and path.parts[0] == "tests"
        for imported in _imported(path)
        if not _may_import(path, imported)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "imported", "allowed"),
    [
        ("tests/journal/test_loader.py", "tests.support.polling", True),
        ("tests/journal/test_loader.py", "tests.journal.appender_bench", True),
        ("tests/journal/test_loader.py", "tests.conftest", True),
        ("tests/journal/test_loader.py", "tests.journal.test_appender", False),
        ("tests/journal/test_loader.py", "tests.gateway.wire", False),
        ("tests/e2e/node/chat.py", "tests.e2e.cluster.harness", True),
        ("tests/test_logs.py", "tests.gateway.wire", False),
        ("tests/support/polling.py", "tests.fakes.kube", True),
        ("tests/support/polling.py", "tests.conftest", False),
        ("tests/fakes/kube.py", "tests.operator.controller.simulated", False),
    ],
)
def test_an_import_across_folders_is_found(path: str, imported: str, allowed: bool) -> None:
    """The rule on both sides."""
    assert _may_import(Path(path), imported) is allowed
