"""The project's real image, built from its real Dockerfile without a daemon, as a tar that a node imports.

The base is pulled as on any machine.  Where no registry can be reached a stand-in takes its name in buildah's store (not
in the Dockerfile): the same distribution as this machine's, with this machine's Python (`stand_in`).  Everything is kept
in the user's cache; an unchanged Dockerfile and unchanged sources cost a second.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e.cluster.build import Missing
from tests.e2e.node.stand_in import make_root
from tests.support.paths import ROOT

NAME: Final = "threadcluster.test/threadcluster:test"

_PIP: Final = ("cert", "extra-index-url", "index-url", "proxy", "timeout", "trusted-host")
"""How packages are reached from here; inside the build it is the same."""


def build() -> Path:
    """Build the image unless it is there as it is now; its tar.  Raises `Missing`."""
    dockerfile = ROOT / "Dockerfile"
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    for base in _bases(dockerfile.read_text()):
        _provide(base)
    digest = cache / "image-id"
    mounts = list(_reach(cache / "pip.conf"))
    _buildah(
        *("bud", "--isolation", "chroot", "--network", "host", "--layers", "--pull=never", "--iidfile", str(digest)),
        *(part for mount in mounts for part in ("--volume", mount)),
        *("--tag", NAME, "--file", str(dockerfile), str(ROOT)),
    )
    tar = cache / f"{digest.read_text().removeprefix('sha256:')[:16]}.tar"
    if not tar.exists():
        for old in cache.glob("*.tar"):
            old.unlink()
        unfinished = tar.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        _buildah("push", "--quiet", NAME, f"docker-archive:{unfinished}:{NAME}")
        unfinished.rename(tar)
    return tar


def built() -> Path:
    """The tar that `build` made last.  Raises `Missing`."""
    found = next(_cache().glob("*.tar"), None)
    if found is None:
        raise Missing("the image has not been built: `make test-node` does that first")
    return found


def _bases(dockerfile: str) -> list[str]:
    """The images that a Dockerfile starts from, without its own stages."""
    arguments = dict(re.findall(r"^ARG +(\w+)=(\S+)", dockerfile, re.MULTILINE))
    bases: list[str] = []
    stages: set[str] = set()
    for written, stage in re.findall(
        r"^FROM +(?:--\S+ +)*(\S+)(?: +AS +(\S+))?", dockerfile, re.MULTILINE | re.IGNORECASE
    ):
        name = re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], ""), written)
        if name not in stages and name not in bases:
            bases.append(name)
        stages.add(stage)
    return bases


def _provide(base: str) -> None:
    """Have an image in buildah's store: pulled, or for Python's a stand-in.  Raises `Missing`."""
    if _has(base):
        return
    full = base if "/" in base else f"docker.io/library/{base}"
    _say(f"pulling {full}")
    if _buildah("pull", "--quiet", full, check=False) == 0:
        return
    if not base.partition("/")[2].startswith("python:") and not base.startswith("python:"):
        raise Missing(f"the image {full} cannot be pulled, and nothing here can stand in for it")
    _say(f"it cannot be pulled: making a stand-in of this machine's Python {sys.version.split()[0]}, about 2 minutes")
    root = make_root(_cache() / "root")
    container = _output("from", "scratch")
    try:
        _buildah("add", "--quiet", container, str(root), "/")
        _buildah(
            "config", "--cmd", "python3", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin", container
        )
        _buildah("commit", "--quiet", container, full)
    finally:
        _buildah("rm", container)
        shutil.rmtree(root)


def _reach(configuration: Path) -> Iterator[str]:
    """Mounts for the time of the build, so that pip inside reaches the same index as pip here."""
    settings: dict[str, str] = {}  # the environment's come first, and count
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    for key, written in re.findall(r"^[\w:]+\.([\w-]+)=(.*)$", listed.stdout, re.MULTILINE):
        if key in _PIP:
            settings.setdefault(key, str(ast.literal_eval(written)))
    if "cert" in settings:
        yield f"{settings['cert']}:{settings['cert']}:ro"
    configuration.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items())]) + "\n")
    yield f"{configuration}:/etc/pip.conf:ro"


def _has(image: str) -> bool:
    return _buildah("inspect", "--type", "image", image, check=False, quiet=True) == 0


def _buildah(*arguments: str, check: bool = True, quiet: bool = False) -> int:
    out = subprocess.DEVNULL if quiet else sys.stderr
    done = subprocess.run([*_command(), *arguments], check=False, stdout=out, stderr=out)
    if check and done.returncode != 0:
        raise Missing(f"buildah {arguments[0]} failed: what it says above tells why")
    return done.returncode


def _output(*arguments: str) -> str:
    return subprocess.run([*_command(), *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _command() -> list[str]:
    """Buildah with a store of our own, apart from what else is built on this machine."""
    return ["buildah", "--root", str(_cache() / "store"), "--runroot", str(_cache() / "run")]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threadcluster" / "image"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
