"""The README in a clean folder: what it says is typed, and does what it says."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.ports import free_ports

pytestmark = pytest.mark.people

_READY_S = 240.0
"""For the environment, which is made from the lock file, the database and two workers."""


def blocks(path: Path) -> list[str]:
    """The commands of a page, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def clean_folder(folder: Path) -> None:
    """The files of the project as they are here, without anything that was made from them."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(
        ["tar", "--create", "--null", "--files-from=-", f"--file={folder}.tar"], cwd=ROOT, input=names, check=True
    )
    folder.mkdir()
    subprocess.run(["tar", "--extract", f"--file={folder}.tar"], cwd=folder, check=True)


def test_the_readme_is_short() -> None:
    """A page that is read."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


def test_its_commands_run_in_a_clean_folder(tmp_path: Path) -> None:
    """The cluster comes up, a thread is made, a worker is killed, and the message is there."""
    up, chat, kubernetes = blocks(ROOT / "README.md")
    assert "kubectl" in kubernetes, "tried by hand: it needs a cluster and a builder of images"
    folder, port = tmp_path / "threadcluster", free_ports("127.0.0.1", 1)[0]
    clean_folder(folder)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    with (tmp_path / "up.log").open("w") as log:
        cluster = subprocess.Popen(
            ["bash", "-e", "-c", f"exec {up}"],
            cwd=folder,
            env={**environment, "ARGS": f"--port {port}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + _READY_S
        while f"http://127.0.0.1:{port}/docs" not in (printed := (tmp_path / "up.log").read_text()):
            assert cluster.poll() is None, printed
            assert time.monotonic() < until, printed
            time.sleep(0.5)
        typed = chat.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{port}")
        assert typed.count(f"http://127.0.0.1:{port}") == chat.count("http://127.0.0.1:8080") > 0
        shown = subprocess.run(
            ["bash", "-e", "-c", typed],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert shown.returncode in (0, 3), shown.stdout  # 3: a worker is not back yet
        assert '"body":"hi"' in shown.stdout, shown.stdout
        assert "demo-1  ready" in shown.stdout, shown.stdout
    finally:
        if cluster.poll() is None:
            os.killpg(cluster.pid, signal.SIGINT)
            cluster.wait(timeout=60)
    assert cluster.returncode in (0, 130, -signal.SIGINT), (tmp_path / "up.log").read_text()
