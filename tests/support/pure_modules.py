"""The pure modules and their tests, as `pyproject.toml` lists them; `python -m tests.support.pure_modules files` prints them.

The Makefile, the mutation runner and a test of the import contract read the one list through this module.
"""

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from coverage import CoverageData

ROOT: Final = Path(__file__).resolve().parents[2]
_FOLDERS: Final = {
    "shard_worker": ROOT,
    "threadcluster_client": ROOT / "client",
    "threadcluster_operator": ROOT / "operator",
}


def project() -> dict[str, Any]:  # TOML
    """The tools' settings."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    return found


def listed(name: str) -> list[str]:
    """One of the lists of the project's own table."""
    found: list[str] = project()["threadcluster"][name]
    return found


def files_of(modules: Iterable[str]) -> list[Path]:
    """The source files of modules and packages, relative to the root."""
    found = []
    for module in modules:
        path = _FOLDERS[module.partition(".")[0]].joinpath(*module.split("."))
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [path.relative_to(ROOT) for path in found]


def unmeasured() -> list[Path]:
    """The files that the last `coverage run` knows nothing of: its report leaves them out, and would call the rest complete."""
    data = CoverageData(str(ROOT / ".coverage"))
    data.read()
    return [file for file in files_of(listed("pure_modules")) if str(ROOT / file) not in data.measured_files()]


def main(what: str) -> None:
    """Print the files as a pattern for coverage, or the tests as arguments of pytest; or fail for files that were not imported."""
    if what == "files":
        print(",".join(map(str, files_of(listed("pure_modules")))))
    elif what == "measured":
        sys.exit("\n".join(f"{file}: no pure test imports it" for file in unmeasured()) or None)
    else:
        print(*([f"--ignore={test}" for test in listed("pure_tests")] if what == "ignored" else listed("pure_tests")))


if __name__ == "__main__":
    main(sys.argv[1])
