"""The source tree: files and names that must never appear in it."""

import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("program", ["threadcluster_operator.main", "shard_worker.main"])
def test_the_programs_explain_themselves(program: str) -> None:
    """`--help` works from anywhere and says what the program is for."""
    shown = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
    assert "Commands:" in shown.stdout
