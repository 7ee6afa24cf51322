"""A replacement of `python:3.x-slim` where no registry can be reached: a minimal Debian, and this machine's Python.

Made by debootstrap from the mirror that this machine's own packages come from, with the libraries that this Python is
linked with; Python itself is copied to `/usr/local`, where the real image has it.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.cluster.build import Missing


def make_root(root: Path) -> Path:
    """Make a new root file system at ``root``.  Raises `Missing`."""
    prefix = _prefix()
    shutil.rmtree(root, ignore_errors=True)
    packages = ",".join(["ca-certificates", *_libraries(prefix)])
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", _suite(), str(root), _mirror()]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise Missing(f"debootstrap failed: {root}/debootstrap/debootstrap.log tells why")
    shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
    shutil.rmtree(root / "var" / "lib" / "apt" / "lists", ignore_errors=True)
    _copy_python(prefix, root / "usr" / "local")
    subprocess.run(["chroot", str(root), "ldconfig"], check=True)  # for a Python that is a shared library
    return root


def _prefix() -> Path:
    """Where a Python of this minor version is that is no part of the system: the one that runs this, or one in $PATH."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [shutil.which(version, path=folder) for folder in os.get_exec_path()]
    asked = [
        subprocess.run([path, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=False)
        for path in found
        if path is not None
    ]
    prefixes = [sys.base_prefix, *(each.stdout.strip() for each in asked if each.returncode == 0)]
    for prefix in prefixes:
        if Path(prefix) != Path("/usr"):
            return Path(prefix)
    raise Missing(
        "this Python is a part of the system and cannot be copied into an image: "
        f"install a {version} of its own (pyenv, uv), or let registry images be pulled"
    )


def _copy_python(prefix: Path, goal: Path) -> None:
    """Interpreter and standard library, with pip alone of what was installed into it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = prefix / "lib" / version / "site-packages"

    def unwanted(folder: str, names: list[str]) -> list[str]:
        if Path(folder) == packages:
            return [name for name in names if not name.startswith("pip")]
        return [name for name in names if name in ("__pycache__", "test", "idlelib") or name.startswith("config-")]

    shutil.copytree(
        prefix / "lib" / version, goal / "lib" / version, symlinks=True, ignore=unwanted, dirs_exist_ok=True
    )
    for name in (version, "python3", "python"):
        (goal / "bin" / name).unlink(missing_ok=True)
    shutil.copy2(prefix / "bin" / version, goal / "bin" / version)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library, goal / "lib" / library.name, follow_symlinks=False)
    for name in ("python3", "python"):
        (goal / "bin" / name).symlink_to(version)
    for name in ("pip", "pip3"):
        script = goal / "bin" / name
        script.write_text('#!/bin/sh\nexec /usr/local/bin/python -m pip "$@"\n')
        script.chmod(0o755)


def _libraries(prefix: Path) -> list[str]:
    """The Debian packages of the libraries that the interpreter and its modules are linked with."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    linked = [prefix / "bin" / version, *(prefix / "lib" / version / "lib-dynload").glob("*.so")]
    linked = [file for file in linked if not file.name.startswith("_tkinter")]  # it would bring a desktop's libraries
    output = subprocess.run(["ldd", *map(str, linked)], capture_output=True, text=True, check=False).stdout
    files = {path for path in re.findall(r"=> (/\S+)", output) if not path.startswith(str(prefix))}
    return sorted({package for path in files for package in _package_of(path)})


def _package_of(path: str) -> Iterator[str]:
    """The package a library is from; Debian knows files by the names from before `/lib` became a link."""
    real = str(Path(path).resolve())
    for name in dict.fromkeys((path, real, real.removeprefix("/usr"))):
        asked = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield asked.stdout.partition(":")[0]
            return


def _suite() -> str:
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise Missing("the stand-in for Python's image is made on Debian: elsewhere let it be pulled from its registry")
    return release["VERSION_CODENAME"]


def _mirror() -> str:
    """Where this machine's own packages come from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    suite = _suite()
    for line in subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines():
        uri, _, release = line.partition(" ")
        if release == suite:
            return uri
    raise Missing(f"apt knows no mirror of {suite}: set one in /etc/apt/sources.list, and run apt-get update")
