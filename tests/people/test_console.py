"""The console in a real browser: a person opens the printed address, chats, kills a worker, and loses nothing."""

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.people.parts import FOLDER, browser
from tests.support.local_cluster import LocalCluster
from tests.support.paths import ROOT

pytestmark = pytest.mark.people

OUT: Final = FOLDER / "out"
PAGE: Final = ROOT / "operator" / "threadcluster_operator" / "console" / "page"
WITHIN_S: Final = 60.0
"""From nothing, the start of the cluster included, until the person has chatted on after the kill and every shard is served."""


async def visit(address: str, width: int) -> dict[str, Any]:
    """A person's visit; what the page showed."""
    found = browser()
    assert found is not None
    OUT.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *("node", FOLDER / "console.mjs", found, address, str(width), OUT), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(150):
        out, _ = await process.communicate()
    shown: dict[str, Any] = json.loads(out)
    assert process.returncode == 0, json.dumps(shown, indent=1)
    return shown


def command_lines(supervisor: int) -> str:
    """The arguments and environments of all processes of a cluster."""
    family = [psutil.Process(supervisor), *psutil.Process(supervisor).children(recursive=True)]
    lines = []
    for process in family:
        try:
            lines.append(" ".join([*process.cmdline(), *process.environ().values()]))
        except psutil.Error:  # a session of Postgres ends when it likes
            continue
    return "\n".join(lines)


@pytest.mark.parametrize("width", [1280, 390])
async def test_a_person_kills_a_worker_and_loses_nothing(tmp_path: Path, width: int) -> None:
    """At the width of a screen and of a phone, within a minute."""
    began = time.time()
    cluster = LocalCluster(tmp_path / "data", shards=24)
    output = await cluster.up(2)
    try:
        address = re.search(r"^Console: (\S+)$", output, re.MULTILINE)
        assert address is not None, output
        shown = await visit(address[1], width)
        token = address[1].partition("token=")[2]
        status = await cluster.status()
        logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "data" / "logs").iterdir())
        arguments = command_lines(status["supervisor"]["pid"])
    finally:
        await cluster.down()
    account, took_s = shown["account"], shown["chattedOnAt"] - began
    print(f"width {width}: {took_s:.1f} s; {account}; served again after {shown['killedFor']} ms")
    assert account["lost"] == 0
    assert account["sent"] == account["acknowledged"] == account["read"] >= 20
    assert shown["restarted"][0] != shown["restarted"][1]
    assert took_s <= WITHIN_S

    # Nothing but the console is asked, and the token is in no address.
    origin = address[1].partition("#")[0]
    foreign = [line for line in shown["requests"] if not line.partition(" ")[2].startswith(origin)]
    assert foreign == []
    assert not [line for line in shown["requests"] if token in line.partition("#")[0]]
    assert shown["location"] == origin
    assert shown["cookies"] == 0
    assert token not in logs
    assert token not in arguments
    assert "shard_worker.main" in arguments

    # The texts that a person reads.
    assert shown["text"] == ["hello Ben <b>\u202e", 0]
    assert shown["killCommand"] == f"kill -9 {shown['restarted'][0]}"
    assert shown["threadCommand"].endswith("--at 2")
    assert '"title": "console"' in shown["event"]
    assert '"sequenceNr": 2' in shown["state"]
    assert "epoch" in shown["shard"]
    assert "database connected" in shown["summary"]

    # The page holds together.
    assert shown["overflow"] == {"map": 0, "chat": 0, "inspector": 0}
    assert shown["streamsAfterHiding"] == 1
    assert shown["errors"] == []


COUNTER: Final = """
import { Counter } from %s;
const shown = [];
const counter = new Counter(2);
const step = (change) => { change(); shown.push(Object.values(counter.totals())); };
step(() => { counter.sent("a"); counter.sent("b"); });
step(() => counter.acknowledged("a", 2));
step(() => { counter.read(0, 2, ["a"]); counter.read(1, 2, ["a"]); });
step(() => { counter.acknowledged("b", 3); counter.read(0, 3, ["b"]); });
step(() => counter.read(1, 4, []));
step(() => counter.restart(1));
console.log(JSON.stringify(shown));
"""


def test_the_counter_counts_a_lost_message() -> None:
    """A message is lost as soon as a pane reads past its place without it: sent, acknowledged, read back, lost."""
    module = json.dumps((PAGE / "counter.js").as_uri())
    done = subprocess.run(
        ["node", "--input-type=module", "-"], input=COUNTER % module, stdout=subprocess.PIPE, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        [2, 0, 0, 0],
        [2, 1, 0, 0],
        [2, 1, 1, 0],
        [2, 2, 1, 0],
        [2, 2, 1, 1],
        [2, 2, 0, 0],
    ]
