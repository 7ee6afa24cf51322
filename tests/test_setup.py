"""`make setup` chooses the interpreter of the environment."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(name="setup")
def _setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_of_the_environment", ROOT / "tools" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _interpreter(setup: ModuleType, name: str, *, share: float, has_venv: bool = True) -> Any:
    found = setup.Interpreter(name, (3, 11), has_venv, 1.0, name)
    found.share = share
    return found


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [
        ({"3.13": 0.35, "3.12": 0.33, "3.11": 0.32}, "3.13"),  # as fast: the newest
        ({"3.13": 0.44, "3.12": 0.28, "3.11": 0.28}, "3.12"),  # the newest was built without optimisations
        ({"3.11 of a version manager": 0.63, "3.11 of the system": 0.37}, "3.11 of the system"),
        ({"3.11": 1.0}, "3.11"),
    ],
)
def test_the_newest_is_chosen_unless_another_is_faster(
    setup: ModuleType, shares: dict[str, float], chosen: str
) -> None:
    """By more than the noise of the comparison."""
    assert setup.choose([_interpreter(setup, name, share=share) for name, share in shares.items()]).path == chosen


def test_an_interpreter_without_venv_is_chosen_only_when_it_is_the_only_one(setup: ModuleType) -> None:
    """Then the message says what to install."""
    bare = _interpreter(setup, "fast", share=0.3, has_venv=False)
    assert setup.choose([bare, _interpreter(setup, "slow", share=0.7)]).path == "slow"
    assert setup.choose([bare]).path == "fast"


def test_the_interpreter_that_runs_this_is_asked_what_it_is(setup: ModuleType, tmp_path: Path) -> None:
    """A program that is none is not considered."""
    found = setup.ask(sys.executable)
    assert (found.version, found.has_venv) == (sys.version_info[:2], True)
    assert found.seconds > 0
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    broken.chmod(0o755)
    assert setup.ask(str(broken)) is None
