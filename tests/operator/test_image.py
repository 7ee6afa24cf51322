"""The image: what goes into it is locked, and it runs as nobody on files that it cannot change.

It is built and run on the real node (tests/node).
"""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def locked(*asked: str) -> dict[str, str]:
    """By name, the lock file's blocks that `tools/image_lock.py` chooses."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "image_lock.py", *asked], check=True, capture_output=True, text=True
    )
    blocks = re.split(r"^(?=[a-z0-9])", done.stdout, flags=re.MULTILINE)[1:]
    return {re.split(r"[=; ]", block)[0]: block for block in blocks}


def names(requirements: list[str]) -> set[str]:
    """The packages' names, as the lock file writes them."""
    return {re.split(r"[\[<>=]", each)[0].replace("_", "-").lower() for each in requirements}


def test_the_image_gets_what_the_programs_need_and_no_more() -> None:
    """Their dependencies with all that those need; neither the embedded database nor the tests' tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = locked("threadcluster[operator]")
    assert found.keys() >= names(project["project"]["dependencies"])
    assert found.keys() >= names(project["project"]["optional-dependencies"]["operator"])
    assert found.keys() >= {"multidict", "yarl", "pydantic-core", "iso8601", "urllib3"}
    dev = names(project["dependency-groups"]["dev"]) | names(project["project"]["optional-dependencies"]["local"])
    assert not found.keys() & dev


def test_everything_in_it_is_pinned_by_hash() -> None:
    """A package that the index changes is not installed."""
    for block in locked("threadcluster[operator]", "hatchling").values():
        assert re.search(r"==\S+", block)
        assert "--hash=sha256:" in block


def test_what_is_not_locked_is_refused() -> None:
    """By its name."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        locked("no-such-package")
    assert "no-such-package" in caught.value.stderr


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    """The context is a list of what is let in."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


def test_it_runs_as_a_numbered_user_who_is_not_root() -> None:
    """Only a number lets Kubernetes see that it is not root."""
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["65532:65532"]


def test_nothing_in_it_is_of_one_processor() -> None:
    """No architecture is named outside of the comments."""
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert not re.search(r"amd64|arm64|x86_64|aarch64", instructions)
