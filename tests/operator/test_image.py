"""The image: its contents are locked, and it runs as an unprivileged user on files that it cannot change.

It is built and run on the real node (tests/e2e/node).
"""

import fnmatch
import hashlib
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.paths import ROOT

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


def test_the_base_is_a_tag_or_its_digest() -> None:
    """A digest where one could be looked up, of the tag that the line above names."""
    (name,) = re.findall(r"^# Tag of BASE: ([a-z/-]+):[\w.-]+\nARG BASE=", DOCKERFILE, re.MULTILINE)
    (base,) = re.findall(r"^ARG BASE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(rf"{name}(:[\w.-]+|@sha256:[0-9a-f]{{64}})", base)


INDEX = json.dumps({"schemaVersion": 2, "manifests": [{"digest": "sha256:0"}]}).encode()


class Registry(BaseHTTPRequestHandler):
    """A registry with one tag, which wants a token, as the public ones do."""

    def do_GET(self) -> None:
        """Answer with a token, the index of the tag, or what keeps one from it."""
        address = f"http://{self.headers['Host']}"
        if self.path.startswith("/token?"):
            self._answer(200, b'{"token": "t"}')
        elif self.headers.get("Authorization") != "Bearer t":
            self._answer(401, b"", ("WWW-Authenticate", f'Bearer realm="{address}/token",service="s",scope="pull"'))
        elif self.path == "/v2/library/python/manifests/3.13-slim":
            self._answer(200, INDEX)
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def pin(dockerfile: Path, registry: str) -> subprocess.CompletedProcess[str]:
    """Run the tool of `make pin-base`."""
    command = [sys.executable, str(ROOT / "tools" / "base_image.py"), "--registry", registry]
    return subprocess.run([*command, "--dockerfile", str(dockerfile)], capture_output=True, text=True, check=False)


def test_the_base_is_pinned_by_the_digest_of_its_tag(registry: str, tmp_path: Path) -> None:
    """Of the bytes that the registry gave; asked again it stays, and everything else does."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(DOCKERFILE)
    for _ in range(2):
        done = pin(dockerfile, registry)
        assert done.returncode == 0, done.stderr
        expected = f"ARG BASE=python@sha256:{hashlib.sha256(INDEX).hexdigest()}"
        assert dockerfile.read_text() == re.sub(r"^ARG BASE=.*$", expected, DOCKERFILE, flags=re.MULTILINE)


def test_without_a_registry_the_base_stays_as_it_is(registry: str, tmp_path: Path) -> None:
    """And the tool says what did not answer."""
    dockerfile = tmp_path / "Dockerfile"
    text = DOCKERFILE.replace("# Tag of BASE: python:3.13-slim", "# Tag of BASE: python:0-none")
    dockerfile.write_text(text)
    for where in (registry, "http://127.0.0.1:1"):
        done = pin(dockerfile, where)
        assert done.returncode == 1
        assert "does not answer for python:0-none" in done.stderr
        assert "Traceback" not in done.stderr
    assert dockerfile.read_text() == text


@pytest.mark.parametrize(("ratio", "warned"), [("4.1", False), ("15.9", True)])
def test_setup_warns_of_a_python_that_normalises_in_quadratic_time(tmp_path: Path, ratio: str, warned: bool) -> None:
    """By what the interpreter does; here one that answers what is asked of it."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {ratio}\n")
    python.chmod(0o755)
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import setup; setup.warn_of_slow_normalisation({str(python)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("quadratic" in done.stdout) == warned


def test_setup_measures_the_normalisation() -> None:
    """The program that it asks an interpreter to run answers with a number."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import setup; exec(setup.NORMALISE)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 1
