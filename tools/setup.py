"""Make the virtual environment of this project: only the standard library, and any Python that can say what is wrong.

Called by `make setup`.  Makes `.venv` from the hashed lock file, then the project itself, and only when one of them has
changed since.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

OLDEST, NEWEST = (3, 11), (3, 14)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, os.environ.get("VENV") or ".venv")
STAMP = os.path.join(VENV, ".made-from")


def fail(reason):
    """End with one sentence that says what to do."""
    sys.exit("make setup: " + reason)


ASK = """
import os, sys, time
def cost():
    class Counter:
        __slots__ = ("count",)
        def __init__(self): self.count = 0
        def add(self, key, amount=1): self.count += amount; return key
    counter, known, began = Counter(), {}, time.process_time()
    for step in range(40000):
        known[counter.add(step % 997)] = (step, str(step))
    return time.process_time() - began
try:
    import venv, ensurepip
except ImportError:
    venv = None
print(*sys.version_info[:2], int(venv is not None), min(cost() for _ in range(4)), os.path.realpath(sys.executable))
"""
ROUNDS = 7
"""They are measured in turns, and compared within each turn: a shared machine may be twice as fast a second later."""
MARGIN = 1.15
"""A newer Python is preferred unless an older one is faster than this; one built without optimisations takes 1.3 to 1.8 times."""


class Interpreter:
    """A Python: its path, (major, minor), whether it has venv, the seconds of a small program, and its file.

    ``share`` is its part of all interpreters' seconds: the median of the rounds.
    """

    share = 1.0

    def __init__(self, path, version, has_venv, seconds, file):
        self.path, self.version, self.has_venv, self.seconds, self.file = path, version, has_venv, seconds, file


def ask(path):
    """The interpreter at a path; None where it does not start."""
    asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True)
    if asked.returncode != 0:
        return None
    major, minor, has_venv, seconds, file = asked.stdout.split(None, 4)
    return Interpreter(path, (int(major), int(minor)), has_venv == "1", float(seconds), file.strip())


def measure(found):
    """Set the share of each of these interpreters."""
    rounds = []
    for _ in range(ROUNDS):
        seconds = [(ask(each.path) or each).seconds for each in found]
        rounds.append([each / sum(seconds) for each in seconds])
    for place, each in enumerate(found):
        each.share = sorted(shares[place] for shares in rounds)[ROUNDS // 2]


def choose(found):
    """Of interpreters, newest first, the first one unless another is faster by `MARGIN`; one without venv only alone."""
    able = [each for each in found if each.has_venv] or found
    fastest = min(each.share for each in able)
    return next(each for each in able if each.share <= fastest * MARGIN)


def paths_of(name):
    """Every program of this name in $PATH, in its order, each file once."""
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [path for path in (shutil.which(name, path=each) for each in directories if each) if path is not None]
    return list(dict.fromkeys(found))


def find_python():
    """The interpreter named by $PYTHON, or the one of those in $PATH that `choose` says."""
    wanted = os.environ.get("PYTHON")
    if wanted:
        paths = [shutil.which(wanted)]
        if paths == [None]:
            fail("$PYTHON names %r, which is not there" % wanted)
    else:
        names = ["python3.%d" % minor for minor in range(NEWEST[1], OLDEST[1] - 1, -1)] + ["python3"]
        paths = [path for name in names for path in paths_of(name)] + [sys.executable]
    asked = [(path, ask(path)) for path in dict.fromkeys(paths)]
    supported = [each for _, each in asked if each is not None and OLDEST <= each.version <= NEWEST]
    found = list({each.file: each for each in reversed(supported)}.values())[::-1]
    if not found:
        others = sorted("%s is %d.%d" % (path, *each.version) for path, each in asked if each is not None)
        fail(
            "no supported Python found%s: install Python 3.11 to 3.14, or name one with PYTHON=/path/to/python make setup"
            % (" (%s)" % ", ".join(others) if others else "")
        )
    if len(found) > 1:
        measure(found)
    return choose(found)


NORMALISE = """
import time, unicodedata
def cost(marks):
    text, took = "a" + (chr(0x300) + chr(0x316)) * (marks // 2), []
    for _ in range(3):
        began = time.process_time()
        unicodedata.normalize("NFC", text)
        took.append(time.process_time() - began)
    return min(took)
print(cost(6000) / max(cost(1500), 1e-9))
"""
LINEAR_MOST = 8.0
"""Four times as much text takes 4 times as long where the cost is linear, and 16 times where it is quadratic."""


def warn_of_slow_normalisation(python):
    """Say when this Python's Unicode normalisation takes quadratic time, as many releases of CPython do."""
    asked = subprocess.run([python, "-c", NORMALISE], capture_output=True, text=True)
    if asked.returncode == 0 and float(asked.stdout) > LINEAR_MOST:
        print(
            "  warning: this Python normalises long runs of combining marks in quadratic time. The gateway refuses such\n"
            "    runs before it normalises, so clients cannot use it; code of your own that normalises foreign text can be\n"
            "    slowed. A Python whose unicodedata has the fix of linear canonical ordering does not show this warning;\n"
            "    name it with PYTHON=/path/to/python make setup",
            flush=True,
        )


def digest(path):
    """Tells whether the environment is still made from these files, by the interpreter at this path."""
    found = hashlib.sha256(repr((path, ROOT)).encode())
    for name in ("requirements.lock", "pyproject.toml", "client/pyproject.toml", "tools/setup.py"):
        with open(os.path.join(ROOT, *name.split("/")), "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def is_made():
    """Whether the environment is there as it should be: it stays with its interpreter unless $PYTHON names another."""
    try:
        with open(STAMP) as file:
            stamp, _, path = file.read().partition("\n")
    except FileNotFoundError:
        return False
    wanted = os.environ.get("PYTHON")
    if wanted and shutil.which(wanted) != path:
        return False
    return stamp == digest(path) and os.path.exists(os.path.join(VENV, "bin", "python"))


def run(what, command):
    """Say what is done, do it, and say how long it took."""
    print("  %s ..." % what, flush=True)
    began = time.time()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        fail("%s failed (see above)" % what)
    print("    done in %.0f s" % (time.time() - began), flush=True)


def main():
    """Make or keep the environment."""
    if is_made():
        return
    chosen = find_python()
    print(
        "making %s with Python %d.%d, %s (once; again only when the lock file changes)"
        % (os.path.basename(VENV), *chosen.version, chosen.path),
        flush=True,
    )
    warn_of_slow_normalisation(chosen.path)
    # ensurepip is what Debian leaves out of python3 until python3-venv is installed.
    if not chosen.has_venv:
        fail(
            "this Python has no venv: on Debian and Ubuntu `apt install python%d.%d-venv`, elsewhere install a full Python"
            % chosen.version
        )
    shutil.rmtree(VENV, ignore_errors=True)
    run("making the environment", [chosen.path, "-m", "venv", VENV])
    pip = [os.path.join(VENV, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The lock names every package, and Python compiles what it imports: without both, this takes half the time.
    pip += ["--no-deps", "--no-compile"]
    run("downloading and installing the locked packages", [*pip, "--require-hashes", "-r", "requirements.lock"])
    run("installing the project and its client", [*pip, "--no-build-isolation", "-e", ".", "-e", "client"])
    with open(STAMP, "w") as file:
        file.write(digest(chosen.path) + "\n" + chosen.path)


if __name__ == "__main__":
    main()
