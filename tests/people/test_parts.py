"""The parts that `make test-people` needs: a missing one is named with its remedy, and the locked ones come from anywhere."""

import json
from pathlib import Path

import pytest

from tests.people import parts


def program(folder: Path, name: str, says: str) -> None:
    """A program that prints one line."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)


def test_each_missing_part_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed, and the sentence says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert list(parts.missing()) == ["nodejs", "npm", "chromium"]
    with pytest.raises(parts.Missing) as raised:
        parts.prepare()
    for package in ("nodejs", "npm", "chromium"):
        assert f"{package})" in str(raised.value) or f"{package})," in str(raised.value)


def test_an_old_node_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its major version."""
    for name, says in (("npm", "9.0.0"), ("chromium", "Chromium"), ("node", "v18.20.4")):
        program(tmp_path, name, says)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert list(parts.missing()) == ["nodejs"]
    program(tmp_path, "node", "v20.19.2")
    assert not parts.missing()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nothing"))
    assert list(parts.missing()) == ["chromium"]


def test_the_lock_file_names_no_registry_and_pins_every_package_by_hash() -> None:
    """It installs the same bytes from wherever the user's npm looks."""
    locked = json.loads((parts.FOLDER / "package-lock.json").read_text())["packages"]
    wanted = json.loads((parts.FOLDER / "package.json").read_text())["devDependencies"]
    assert locked.pop("")["devDependencies"] == wanted
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert len(locked) > 100
    assert all("integrity" in package and "resolved" not in package for package in locked.values())
