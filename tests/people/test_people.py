"""The target `make test-people`: generated clients and a browser against a cluster of `threadcluster local up`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from ulid import ULID

from tests.people.parts import FOLDER, browser
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.paths import ROOT
from tests.support.polling import eventually
from tests.support.python_client import ADA, PythonClient, generate

pytestmark = pytest.mark.people

GENERATED: Final = FOLDER / "generated"


@pytest.fixture(scope="module")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of two workers, as `make up` starts it; its loop is not that of the tests."""
    loop = asyncio.new_event_loop()
    around = local_cluster(tmp_path_factory.mktemp("people") / "data")
    yield loop.run_until_complete(around.__aenter__())
    loop.run_until_complete(around.__aexit__(None, None, None))
    loop.close()


@pytest.fixture(scope="module")
def url(anyone: LocalCluster) -> str:
    """Its public address."""
    return str(asyncio.run(anyone.ready())["url"])


@pytest.fixture(scope="module")
def document(url: str) -> Path:
    """The document as it is served."""
    GENERATED.mkdir(exist_ok=True)
    path = GENERATED / "openapi.json"
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        path.write_bytes(answer.read())
    return path


def npx(*words: str | Path) -> str:
    """Run a tool of the lock file: its output; fails as it fails."""
    done = subprocess.run(
        ["npx", "--no-install", *words], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def typescript(document: Path) -> str:
    """The types that openapi-typescript makes of the document; what it says."""
    return npx("openapi-typescript", document, "-o", GENERATED / "api.ts")


def test_spectral_finds_nothing(document: Path) -> None:
    """No error and no warning by its rules for OpenAPI."""
    npx("spectral", "lint", document, "--fail-severity", "warn")


async def test_the_python_client_chats(document: Path, url: str) -> None:
    """openapi-python-client has nothing to warn of; its client creates, posts, pages and fails as it should."""
    package = GENERATED / "python_chat"
    assert "arning" not in generate(document, package)
    await PythonClient(package, url).chat()


def test_openapi_typescript_has_nothing_to_warn_of(typescript: str) -> None:
    """It prints a warning with a sign of its own."""
    assert "⚠" not in typescript
    assert "arning" not in typescript


def test_the_typescript_client_chats(typescript: str, url: str) -> None:
    """`tsc --strict` accepts it; it creates, posts, pages and fails as it should."""
    assert typescript
    npx("tsc", "--strict", "--project", FOLDER)
    done = subprocess.run(
        ["node", FOLDER / "out" / "chat.js", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def page_of_clients(url: str, name: str, folder: Path) -> None:
    """Write a file of docs/clients.md as its commands do, for this cluster."""
    text = (ROOT / "docs" / "clients.md").read_text()
    file = text.partition(f"cat > {name} <<'END'\n")[2].partition("END\n")[0]
    assert file.count("http://127.0.0.1:8080") == 1
    (folder / name).write_text(file.replace("http://127.0.0.1:8080", url))


def test_the_programs_of_the_documentation_run(document: Path, typescript: str, url: str) -> None:
    """docs/clients.md: its files are compiled, run, and print as it says."""
    assert typescript
    page_of_clients(url, "chat.py", GENERATED)
    generate(document, GENERATED / "chat_client")
    shown = subprocess.run([sys.executable, "chat.py"], cwd=GENERATED, stdout=subprocess.PIPE, text=True, check=True)
    assert shown.stdout == "['Good morning']\n"
    page_of_clients(url, "chat.mts", GENERATED)
    npx("tsc", "--strict", "--target", "es2022", "--module", "nodenext", GENERATED / "chat.mts")
    shown = subprocess.run(["node", "chat.mjs"], cwd=GENERATED, stdout=subprocess.PIPE, text=True, check=True)
    assert shown.stdout == "1\n"


@pytest.mark.parametrize("width", [390, 1280])
def test_a_person_reads_and_tries_the_api(document: Path, url: str, width: int) -> None:
    """The page /docs: nothing from elsewhere, no sideways scroll, schemas with their limits, and a form that works."""
    pictures = FOLDER / "out"
    pictures.mkdir(exist_ok=True)
    done = subprocess.run(
        ["node", FOLDER / "docs_page.mjs", str(browser()), url, str(width), pictures], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["foreign"] == []
    assert found["errors"] == []
    assert {name: by for name, by in found.items() if name.startswith("beyond") and by > 0} == {}
    assert found["plainRight"] <= 0
    paths = json.loads(document.read_text())["paths"]
    assert found["operations"] == sum(map(len, paths.values()))
    for text in (found["text"], found["plain"]):
        assert "**" not in text
        assert "`" not in text
        assert [code for code in ("validation-failed", "outcome-unknown", "thread-not-found") if code not in text] == []
    assert [path for path in paths if path not in found["plain"]] == []
    assert [word for word in ("administratorIds", "characters", "items") if word not in found["schemas"]] == []
    assert found["tried"].split()[:1] == ["Code"]
    assert '"threadId"' in found["tried"]
    assert (found["streams"], found["streamsTried"]) == (2, 0)


class Page:
    """A page in the browser that follows a thread."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]

    @property
    def seen(self) -> list[int]:
        """The sequence numbers of the events, in the order in which the page got them."""
        return [line["data"]["sequenceNr"] for line in self.of("event")]

    async def read(self) -> None:
        """Collect what the page says, until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))


@asynccontextmanager
async def page_of(url: str, path: str) -> AsyncIterator[Page]:
    """A page of the gateway's origin with an `EventSource` of this path."""
    found = browser()
    assert found is not None
    process = await asyncio.create_subprocess_exec(
        "node",
        *(FOLDER / "event_source.mjs", found, url, path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    page = Page(process)
    reading = asyncio.create_task(page.read())
    try:
        yield page
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
            await reading
    finally:
        if process.returncode is None:
            process.kill()


class Poster:
    """Posts to one thread, each message once; no other poster has its keys."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._name = f"people-{ULID()}"
        self._count = 0
        self.thread_id = ""
        self.newest = 0

    async def _send(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """Send a command until it is answered."""
        self._count += 1
        fields = {"Idempotency-Key": f"{self._name}-{self._count}"}
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self._client.post(path, json={"accountId": ADA, **body}, headers=fields) as answer:
                        if answer.status == 200:
                            found: dict[str, Any] = await answer.json()
                            self.newest = found["sequenceNr"]
                            return found
                        assert answer.status == 503, await answer.text()
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.1)

    async def create(self) -> str:
        """The path of the stream of a new thread, from its first event on."""
        answer = await self._send("/v1/threads/create", {"title": "t", "administratorIds": [ADA], "memberIds": [ADA]})
        self.thread_id = answer["threadId"]
        return f"/v1/threads/{self.thread_id}/events?account_id={ADA}&after=0"

    async def post(self, count: int) -> None:
        """Post some messages."""
        for _ in range(count):
            await self._send(f"/v1/threads/{self.thread_id}/messages/add", {"messages": [{"text": "hello"}]})


async def _restart_worker(cluster: LocalCluster, place: int, signal_number: int) -> None:
    """End one worker, and return once the supervisor has started it again."""
    pid = (await cluster.status())["workers"][place]["pid"]
    os.kill(pid, signal_number)
    async with asyncio.timeout(60):
        while True:
            found = await cluster.status()
            if found["ready"] and found["workers"][place]["pid"] not in (None, pid):
                return


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL], ids=["leaves", "is killed"])
async def test_an_event_source_sees_each_event_once(anyone: LocalCluster, url: str, ended_by: int) -> None:
    """Each worker ends in turn: the browser comes back by itself, with the last id that it has seen, and misses nothing."""
    async with aiohttp.ClientSession(url) as client:
        poster = Poster(client)
        path = await poster.create()
        async with page_of(url, path) as page:
            await eventually(lambda: bool(page.of("open")), what="the stream is open", within_s=30)
            await poster.post(5)
            for place in range(2):
                posting = asyncio.create_task(poster.post(10))
                await _restart_worker(anyone, place, ended_by)
                await posting
            await poster.post(5)
            await eventually(lambda: len(page.seen) >= poster.newest, what="the page has every event", within_s=60)
        assert page.seen == list(range(1, poster.newest + 1))
        first, *later = [line["lastEventId"] for line in page.of("request")]
        assert first == ""
        assert later, "no worker ended the stream"
        known = ["0", *(line["id"] for line in page.of("event"))]
        resumed = [known.index(each) for each in later]  # each is an id that came before
        assert resumed == sorted(resumed)
        assert not [line for line in page.of("lost") if line["closed"]]
        assert not page.of("refused")
