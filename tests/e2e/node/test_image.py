"""Sources of the node's images."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.node import image, pause


def test_the_bases_of_a_dockerfile_are_found() -> None:
    """With their arguments filled in, once each, and without its own stages."""
    dockerfile = """
ARG PYTHON=3.13
FROM --platform=$BUILDPLATFORM python:${PYTHON}-slim AS build
RUN true
FROM python:${PYTHON}-slim AS run
COPY --from=build /a /b
FROM run
"""
    assert image._bases(dockerfile) == ["python:3.13-slim"]


@pytest.mark.node
def test_the_pause_program_waits(tmp_path: Path) -> None:
    """It is a program that this machine runs, and that does not end by itself."""
    with tarfile.open(pause.write_image(tmp_path / "pause.tar")) as outer:
        layer = outer.extractfile("layer.tar")
        assert layer is not None
        with tarfile.open(fileobj=layer) as inner:
            program = inner.extractfile("pause")
            assert program is not None
            (tmp_path / "pause").write_bytes(program.read())
            (tmp_path / "pause").chmod(inner.getmember("pause").mode)
    with subprocess.Popen([tmp_path / "pause"]) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.2)
        running.kill()
