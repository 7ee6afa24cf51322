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


def find_python():
    """The newest supported interpreter, or the one named by $PYTHON."""
    wanted = os.environ.get("PYTHON")
    names = [wanted] if wanted else ["python3.%d" % minor for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    names += [] if wanted else ["python3", sys.executable]
    seen = []
    for name in names:
        path = shutil.which(name)
        if path is None:
            if wanted:
                fail("$PYTHON names %r, which is not there" % wanted)
            continue
        asked = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if asked.returncode != 0:
            continue
        version = tuple(int(part) for part in asked.stdout.split())
        if OLDEST <= version <= NEWEST:
            return path, version
        seen.append("%s is %d.%d" % (name, version[0], version[1]))
    found = " (%s)" % ", ".join(sorted(set(seen))) if seen else ""
    fail(
        "no supported Python found%s: install Python 3.11 to 3.14, or name one with PYTHON=/path/to/python make setup"
        % found
    )


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


def digest(version):
    """Tells whether the environment is still made from these files."""
    found = hashlib.sha256(repr((version, ROOT)).encode())
    for name in ("requirements.lock", "pyproject.toml", os.path.join("tools", "setup.py")):
        with open(os.path.join(ROOT, name), "rb") as file:
            found.update(file.read())
    return found.hexdigest()


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
    python, version = find_python()
    stamp = digest(version)
    try:
        with open(STAMP) as file:
            if file.read() == stamp:
                return
    except FileNotFoundError:
        pass
    print(
        "making %s with Python %d.%d (once; again only when the lock file changes)"
        % (os.path.basename(VENV), *version),
        flush=True,
    )
    warn_of_slow_normalisation(python)
    # ensurepip is what Debian leaves out of python3 until python3-venv is installed.
    if subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode != 0:
        fail(
            "this Python has no venv: on Debian and Ubuntu `apt install python%d.%d-venv`, elsewhere install a full Python"
            % version
        )
    shutil.rmtree(VENV, ignore_errors=True)
    run("making the environment", [python, "-m", "venv", VENV])
    pip = [os.path.join(VENV, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The lock names every package, and Python compiles what it imports: without both, this takes half the time.
    pip += ["--no-deps", "--no-compile"]
    run("downloading and installing the locked packages", [*pip, "--require-hashes", "-r", "requirements.lock"])
    run("installing the project", [*pip, "--no-build-isolation", "-e", "."])
    with open(STAMP, "w") as file:
        file.write(stamp)


if __name__ == "__main__":
    main()
