"""Print the part of requirements.lock that some packages need, hashes and all: what an image installs, and no more.

    python tools/image_lock.py threadcluster[operator] > runtime.lock

Only the standard library.  The requirements of a package come from the lock file's own comments ("# via"), so that
nothing is resolved again.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    """A package's name as the lock file writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~;( ]", name.strip())[0]).lower()


def blocks(lock: str) -> dict[str, tuple[str, set[str]]]:
    """By package: its lines, and who needs it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        comment = " ".join(line.strip(" #") for line in block.splitlines() if line.strip().startswith("#"))
        found[normal(block)] = (block, {normal(each) for each in comment.removeprefix("via").split() if each})
    return found


def wanted(asked: str, project: dict[str, list[str]], extras: dict[str, list[str]]) -> list[str]:
    """Packages that are requested by name; the project itself means its dependencies, and those of the named extras."""
    if normal(asked) != "threadcluster":
        return [asked]
    chosen = re.findall(r"[\w-]+", asked.partition("[")[2])
    return [*project["dependencies"], *(each for extra in chosen for each in extras[extra])]


def part_of(lock: str, asked: list[str]) -> str:
    """The blocks of the lock file that these requirements need.  Raises `KeyError` for one that is not locked."""
    every = blocks(lock)
    needed = {normal(each) for each in asked}
    for name in needed:
        every[name]
    while True:
        more = {name for name, (_, by) in every.items() if name not in needed and by & needed}
        if not more:
            return "".join(text for name, (text, _) in every.items() if name in needed)
        needed |= more


if __name__ == "__main__":
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [name for each in sys.argv[1:] for name in wanted(each, metadata, metadata["optional-dependencies"])]
    sys.stdout.write(part_of((ROOT / "requirements.lock").read_text(), names))
