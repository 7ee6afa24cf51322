"""Parts that the tests of this folder need beside Python, and how to get a missing one: Node.js, npm, a browser, npm's packages."""

import argparse
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NODE_LEAST: Final = 20
_INSTALLED: Final = FOLDER / "node_modules" / ".installed"
"""Holds the hash of the lock file whose packages are there."""


class Missing(Exception):
    """A part that is not there, as a sentence that says how to get it."""


def browser() -> str | None:
    """The path of a browser: of the variable CHROMIUM, or one that is installed."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)


def _node_version() -> int:
    """The major version of Node.js; 0 when there is none."""
    if shutil.which("node") is None:
        return 0
    shown = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True).stdout
    major = shown.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def missing() -> dict[str, str]:
    """Debian's package of each part that is not there, and the sentence about it."""
    found = {}
    if _node_version() < _NODE_LEAST:
        found["nodejs"] = f"Node.js {_NODE_LEAST} or newer is missing: install it (Debian: apt-get install nodejs)"
    if shutil.which("npm") is None:
        found["npm"] = "npm is missing: install it (Debian: apt-get install npm)"
    if browser() is None:
        remedy = "apt-get install --no-install-recommends chromium"
        found["chromium"] = f"a browser is missing: install Chromium (Debian: {remedy}), or name one with $CHROMIUM"
    return found


def prepare() -> None:
    """Install npm's packages by the lock file, once; raises `Missing`."""
    if lacking := missing():
        raise Missing("\n".join(lacking.values()))
    wanted = sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    if _INSTALLED.exists() and _INSTALLED.read_text() == wanted:
        return
    print("test-people: npm installs the locked packages ...", file=sys.stderr)
    done = subprocess.run(["npm", "ci", "--loglevel", "error"], cwd=FOLDER, stdout=sys.stderr)
    if done.returncode:
        raise Missing("npm did not install the packages of tests/people/package-lock.json: see its output above")
    _INSTALLED.write_text(wanted)


def main() -> None:
    """Prepare, or list Debian's packages of the parts that are not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.people.parts", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="print the packages that are not there, and do nothing")
    if parser.parse_args().missing:
        print(" ".join(missing()))
        return
    try:
        prepare()
    except Missing as reason:
        raise SystemExit(f"make test-people: {reason}") from None


if __name__ == "__main__":
    main()
