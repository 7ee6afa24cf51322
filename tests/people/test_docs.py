"""The commands of the documents in a clean folder: they are typed as they are printed, and show what the documents show.

A block of commands is run here, or in the test that `ELSEWHERE` names; a new block is in neither, and fails the first test.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.paths import ROOT
from tests.support.ports import free_ports

_READY_S: Final = 120.0

HERE: Final = (
    "docs/command-line.md",
    "docs/console.md",
    "docs/events.md",
    "docs/internal-api.md",
    "docs/moving-shards.md",
    "docs/streams.md",
)
ELSEWHERE: Final[Mapping[tuple[str, str], str]] = {
    ("README.md", "make up"): "tests/people/test_readme.py",
    ("README.md", "export PATH="): "tests/people/test_readme.py",
    ("README.md", "docker build"): "tests/e2e/node/image.py",
    ("docs/clients.md", "python3 -m venv"): "tests/people/test_people.py",
    ("docs/clients.md", "npm install"): "tests/people/test_people.py",
    ("docs/command-line.md", "$ threadcluster drain chat-1"): "tests/e2e/node/commands.py",
    ("docs/command-line.md", "$ threadcluster status -n talk"): "tests/operator/cli/kubernetes/test_status.py",
    ("docs/command-line.md", "kubectl threadcluster status"): "tests/e2e/node/commands.py",
    ("docs/console.md", "kubectl threadcluster console"): "tests/operator/cli/kubernetes/test_console.py",
    ("docs/kubernetes.md", "kubectl apply -k manifests/overlays/kind"): "tests/e2e/cluster/test_manifests.py",
    ("docs/kubernetes.md", "kubectl apply -k crds"): "tests/e2e/cluster/conftest.py",
    ("docs/kubernetes.md", "threadcluster status -n chat"): "tests/e2e/node/commands.py",
    ("docs/tenants.md", "kubectl apply -k manifests/admission"): "tests/e2e/cluster/test_admission_policies.py",
    ("docs/tenants.md", "OLD=$(kubectl"): "tests/e2e/cluster/test_secrets.py",
}
"""By page and the beginning of a block, the test that does what the block does."""


class Block(NamedTuple):
    """Commands of a page: as they are typed, or as a transcript with what they print."""

    page: str
    transcript: bool
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of a transcript, and the lines that it printed."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, *printed = part.rstrip("\n").split("\n")
            yield command, [line for line in printed if line.strip()]


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    found = re.findall(r"^```(sh|console)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [Block(page, kind == "console", text) for kind, text in found]


def elsewhere(block: Block) -> str | None:
    """The test that does what a block does."""
    for (page, beginning), test in ELSEWHERE.items():
        if page == block.page and block.text.startswith(beginning):
            return test
    return None


def test_every_block_of_commands_is_run() -> None:
    """Here, or by a test that is there; and none is named that no page has."""
    pages = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
    blocks = [block for page in pages for block in blocks_of(page)]
    unrun = [block for block in blocks if block.page not in HERE and elsewhere(block) is None]
    assert unrun == []
    for named in ELSEWHERE.values():
        assert (ROOT / named).exists(), named
    assert {elsewhere(block) for block in blocks} - {None} == set(ELSEWHERE.values())


def alike(documented: str, printed: str) -> bool:
    """Whether two lines are the same but for words with digits (times, ports, ids, counts) and what the page leaves out."""

    def words(line: str) -> list[str]:
        return ["#" if re.search(r"\d|…", word) else word for word in line.split()]

    return words(documented) == words(printed)


def expect_shown(documented: list[str], printed: str) -> None:
    """The first and the last line of a transcript are among what was printed, in that order.

    Those between show one run: how far moves have come when a line is printed differs from run to run.
    """
    lines = iter(printed.splitlines())
    for line in [line for line in (documented[:1] + documented[1:][-1:]) if line != "…"]:
        assert any(alike(line, each) for each in lines), f"not printed: {line}\n{printed}"


class Terminal:
    """A shell in a clean folder, with the programs on its PATH as the README says; each block is a shell of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        self._environment["PATH"] = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"

    def type(self, text: str, *, code: int = 0) -> str:
        """Type commands, which end with this code; what they print, standard error included."""
        done = subprocess.run(
            ["bash", "-e", "-c", text.replace(":8080", f":{self.port}")],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_READY_S,
        )
        assert done.returncode == code, f"{text}\n{done.stdout}"
        return done.stdout

    def play(
        self,
        block: Block,
        before: Mapping[int, Callable[[], object]] = {},  # never changed
        change: Callable[[str], str] = lambda command: command,
    ) -> str:
        """Type a transcript command by command; what it says is printed, and an ``Error:`` is an exit code.

        ``before`` is done before the command of that number, ``change`` puts this run's ids into a command.
        """
        output = ""
        for number, (command, documented) in enumerate(block.commands()):
            before.get(number, lambda: None)()
            failed = any(line.startswith("Error: ") for line in documented)
            output = self.type(change(command), code=1 if failed else 0)
            expect_shown(documented, output)
        return output


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """In a folder with nothing in it; what was begun there is stopped."""
    made = Terminal(tmp_path, free_ports("127.0.0.1", 1)[0])
    yield made
    for place in (tmp_path / ".threadcluster").glob("*"):
        made.type(f"threadcluster local down --data-dir {place} || test $? = 3")


@pytest.mark.people
def test_shards_move_as_the_page_shows(terminal: Terminal) -> None:
    """docs/moving-shards.md, from the first block to the last, with the edits of the resource that its text speaks of."""
    create, drain, obstacles, plan, execute, rebalance, pin, history, killed, shards, fewer, leave = blocks_of(
        "docs/moving-shards.md"
    )
    terminal.type(create.text)
    file = terminal.folder / "chat.yaml"

    def mode(name: str) -> None:
        file.write_text(re.sub(r"mode: \w+", f"mode: {name}", file.read_text()))
        terminal.type("threadcluster local up -f chat.yaml")

    def worker(name: str) -> dict[str, object]:
        shown = terminal.type("threadcluster status -o json 2> status.log || test $? = 3")
        found: dict[str, object] = next(each for each in json.loads(shown)["workers"] if each["name"] == name)
        return found

    terminal.play(drain)
    mode("Paused")
    terminal.play(obstacles)
    terminal.type("threadcluster uncordon chat-0")
    mode("Manual")
    shown = terminal.play(plan)
    found = re.search(r"--execute (\w+)", shown)
    assert found is not None
    documented = re.search(r"--execute (\w+)", plan.text)
    assert documented is not None
    terminal.play(
        execute,
        {0: lambda: terminal.type("threadcluster cordon chat-0")},
        lambda command: command.replace(documented[1], found[1]),
    )
    terminal.play(rebalance, {1: lambda: mode("Paused")})
    mode("Manual")
    terminal.play(pin)
    terminal.play(history)
    mode("Auto")
    pid: int | None = None
    until = time.monotonic() + _READY_S
    while "KIND" in (shown := terminal.type("threadcluster history --limit 12")):
        kinds = [line.split()[4] for line in shown.splitlines() if " chat-" in line]
        if "takeover" in kinds:
            if kinds[0] == "handoff":
                break
        elif isinstance(now := worker("chat-0")["pid"], int) and now != pid:
            # Killed once more when it was back before its neighbours missed it.
            os.kill(pid := now, signal.SIGKILL)
        assert time.monotonic() < until, shown
        time.sleep(0.2)
    terminal.play(killed)
    terminal.play(shards)
    mode("Paused")
    file.write_text(file.read_text().replace("replicas: 3", "replicas: 2").replace("mode: Paused", "mode: Auto"))
    terminal.play(fewer)

    def to_this_worker(command: str) -> str:
        address = str(worker("chat-1")["managementAddress"]).removeprefix("http://")
        return re.sub(r"127\.0\.0\.1:\d+", address, command)

    [(command, documented_lines)] = leave.commands()
    shown = terminal.type(to_this_worker(command))
    # The supervisor may have ended the worker before the command asks again whether it has left.
    expect_shown(documented_lines, shown.replace("the worker has ended", documented_lines[-1]))


@pytest.mark.people
def test_the_other_pages_on_one_cluster(terminal: Terminal) -> None:
    """Console, streams, the internal API, completion and events out."""
    up, thread = (block for block in blocks_of("docs/console.md") if elsewhere(block) is None)
    start, again = (line.partition("#")[0] for line in up.text.strip().splitlines())
    terminal.type(f"{start} --port {terminal.port} --detach")
    assert "#token=" in terminal.type(again)
    path, completion = (block for block in blocks_of("docs/command-line.md") if elsewhere(block) is None)
    assert "Commands:" in terminal.type(path.text)
    terminal.type(completion.text)

    [stream] = blocks_of("docs/streams.md")
    shown = terminal.type(stream.text + '\nsleep 1; echo; echo "$THREAD"; kill %1 || true')
    assert '"text":"hello"' in shown
    thread_id = shown.strip().splitlines()[-1]
    [(command, documented)] = thread.commands()
    shown = terminal.type(re.sub(r"thread \w{26}", f"thread {thread_id}", command))
    expect_shown(documented[:1], shown)

    certificate, rotate = blocks_of("docs/internal-api.md")
    folder = terminal.folder / "tls"
    assert '"planVersion"' in terminal.type(certificate.text.replace("/tmp/demo", str(folder)))
    terminal.type(rotate.text)
    assert len((terminal.folder / ".threadcluster/demo/secret").read_text().split()) == 2
    _export(terminal)


def _export(terminal: Terminal) -> None:
    """docs/events.md with the login that its SQL makes; the password is the reader's to choose."""
    page = (ROOT / "docs/events.md").read_text()
    [role] = [
        block
        for block in re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        if "ROLE reporting LOGIN" in block
    ]
    admin = (terminal.folder / ".threadcluster/demo/dsn-migrate").read_text().strip()
    (terminal.folder / "role.sql").write_text(role.replace("'…'", "'reporting'"))
    terminal.type(
        "python - <<'END'\n"
        "import asyncio, asyncpg, pathlib\n"
        "async def run():\n"
        f"    connection = await asyncpg.connect({admin!r})\n"
        "    await connection.execute(pathlib.Path('role.sql').read_text())\n"
        "asyncio.run(run())\nEND"
    )
    [export] = [block for block in blocks_of("docs/events.md") if "shard-worker export" in block.text]
    place = admin.rpartition("@")[2]
    text = re.sub(r"postgresql://reporting:…@\S+", f"postgresql://reporting:reporting@{place}", export.text)
    terminal.type(text.replace("/srv/", "out/"))
    assert list((terminal.folder / "out/events").glob("shard-*/*.jsonl"))
    assert list((terminal.folder / "out/texts").glob("shard-*/*.parquet"))
    shutil.rmtree(terminal.folder / "out")
