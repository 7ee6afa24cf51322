"""Moving shards by command, as a user does: one real cluster for all of it, through the command line alone."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from click.testing import CliRunner
from threadcluster_operator.workers.client import client_context

from shard_worker.contract_tls import INTERNAL_NAME
from shard_worker.main import main as shard_worker
from tests.support.local_cluster import LocalCluster, QuickCluster

EVEN = {"test-0": 4, "test-1": 4, "test-2": 4}
MANUAL = "{mode: Manual}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three workers and twelve shards.  It is only ever talked to, so it needs no loop of its own."""
    cluster = QuickCluster(tmp_path_factory.mktemp("verbs") / "data", shards=12)
    asyncio.run(cluster.up(3))
    yield cluster
    asyncio.run(cluster.down())


@pytest.fixture
async def cluster(running: LocalCluster) -> LocalCluster:
    """The cluster, as it was in the beginning: no worker cordoned, mode Auto, no pins, all even."""
    for worker in (await running.status())["workers"]:
        if worker["state"] in ("cordoned", "draining"):
            await running.does("uncordon", worker["name"])
    await running.up(3)
    for row in await running.shards():
        if row["pin"] is not None:
            await running.does("unpin", str(row["id"]))
    await running.owned(EVEN)
    return running


async def states(cluster: LocalCluster) -> dict[str, str]:
    """The state of each worker."""
    return {worker["name"]: worker["state"] for worker in (await cluster.status())["workers"]}


async def history(cluster: LocalCluster, *words: str) -> list[dict[str, Any]]:
    """The document of `history -o json`."""
    found: list[dict[str, Any]] = json.loads(await cluster.does("history", "-o", "json", *words))["changes"]
    return found


async def moves(cluster: LocalCluster, *words: str) -> list[dict[str, Any]]:
    """The changes of owner that were one: an owner may also raise its own epoch."""
    return [change for change in await history(cluster, *words) if change["kind"] != "adopt"]


async def unbalanced(cluster: LocalCluster) -> None:
    """No shard on test-1, which is uncordoned again, and mode Manual."""
    await cluster.up(3, rebalance=MANUAL)
    await cluster.does("drain", "test-1", "--wait")
    await cluster.does("uncordon", "test-1")
    await cluster.owned({"test-0": 6, "test-2": 6})


async def test_a_drained_worker_owns_nothing_and_a_cordoned_one_gets_nothing(cluster: LocalCluster) -> None:
    """Everything goes to the third; taken back, both get their share again."""
    assert "test-1 is cordoned" in await cluster.does("cordon", "test-1")
    output = await cluster.does("drain", "test-2", "--wait")
    assert "test-2 still owns 4 shards" in output
    assert output.splitlines()[-1] == "test-2 owns nothing"
    assert Counter(await cluster.owners()) == {"test-0": 8, "test-1": 4}
    assert await states(cluster) == {"test-0": "ready", "test-1": "cordoned", "test-2": "draining"}
    _, table = await cluster.command("status")
    assert "test-2  draining" in table
    moved = (await moves(cluster))[:4]
    assert len({each["shard"] for each in moved}) == 4
    assert {(each["from"], each["to"], each["kind"], each["reason"]) for each in moved} == {
        ("test-2", "test-0", "handoff", "test-2 is draining")
    }
    for worker in ("test-1", "test-2"):
        assert f"{worker} may have shards again" in await cluster.does("uncordon", worker)
    await cluster.owned(EVEN)


async def test_the_last_worker_cannot_be_emptied(cluster: LocalCluster) -> None:
    """The command says so at once instead of waiting; the worker serves on."""
    for worker in ("test-1", "test-2"):
        await cluster.does("cordon", worker)
    output = await cluster.refuses("drain", "test-0", "--wait")
    assert "test-0 still owns 4 shards: every worker is cordoned or draining" in output
    assert Counter(await cluster.owners()) == EVEN


async def test_pins_move_shards_and_outlive_a_restart(cluster: LocalCluster) -> None:
    """They are in the database until they are removed; a pin in the resource wins, and is shown as such."""
    first, second = [number for number, owner in enumerate(await cluster.owners()) if owner == "test-0"][:2]
    assert f"shard {first} is pinned to test-1" in await cluster.does("pin", str(first), "test-1")
    await cluster.does("pin", str(second), "test-2")
    assert yaml.safe_load((cluster.data_dir / "cluster.yaml").read_text())["spec"].get("rebalance") is None

    async def held() -> None:
        async with asyncio.timeout(15):
            while [(await cluster.owners())[shard] for shard in (first, second)] != ["test-1", "test-2"]:
                pass

    await held()
    assert (await cluster.shards())[first]["reason"] == "pinned to test-1"
    await cluster.down()
    output = await cluster.does("local", "up", "--port", str(cluster._port), "--detach")
    assert "cluster.yaml" in output
    await held()
    assert f"shard {first} is pinned no more" in await cluster.does("unpin", str(first))
    assert f"shard {first} is not pinned" in await cluster.does("unpin", str(first))
    shown = await cluster.does("shards", "-o", "wide")
    assert "test-2 command" in shown.splitlines()[second + 1]
    await cluster.up(3, rebalance=f"{{pins: [{{shard: {second}, worker: test-1}}]}}")
    assert (await cluster.shards())[second]["pin"] == {"worker": "test-1", "source": "spec"}
    assert (await cluster.owners())[second] == "test-1"
    assert "spec.rebalance.pins has it on test-1, which wins" in await cluster.does("pin", str(second), "test-2")
    await cluster.up(3)
    assert (await cluster.shards())[second]["pin"] == {"worker": "test-2", "source": "command"}


async def test_a_plan_is_shown_and_then_made_exactly(cluster: LocalCluster) -> None:
    """Nothing moves before; what was shown is what is done; a second time there is nothing left."""
    await unbalanced(cluster)
    before = await cluster.shards()
    found = json.loads(await cluster.does("plan", "-o", "json"))
    assert {"hash", "planVersion", "moves"} <= set(found)
    assert {move["target"] for move in found["moves"]} == {"test-1"}
    assert Counter(move["source"] for move in found["moves"]) == {"test-0": 2, "test-2": 2}
    text = await cluster.does("plan")
    assert f"plan {found['hash']}, made from plan version {found['planVersion']}" in text
    for move in found["moves"]:
        assert move["reason"] in text
    assert await cluster.shards() == before
    output = await cluster.does("plan", "--execute", found["hash"])
    assert "4 of 4 moved" in output
    wanted = {row["id"]: row["owner"] for row in before} | {move["shard"]: move["target"] for move in found["moves"]}
    after = await cluster.shards()
    assert {row["id"]: row["owner"] for row in after} == wanted
    moved = {move["shard"]: move["reason"] for move in found["moves"]}
    assert {row["id"]: row["reason"] for row in after if row["id"] in moved} == moved
    assert "nothing to move" in await cluster.does("rebalance", "--plan", found["hash"])


async def test_a_plan_of_before_is_refused(cluster: LocalCluster) -> None:
    """The cluster has changed since, so nothing is done; as it was again, the plan is good again."""
    await unbalanced(cluster)
    plan_hash = json.loads(await cluster.does("plan", "-o", "json"))["hash"]
    before = await cluster.owners()
    await cluster.does("cordon", "test-0")
    for words in (("plan", "--execute", plan_hash), ("rebalance", "--plan", plan_hash), ("plan", "--execute", "no")):
        assert "is not what would be done now" in await cluster.refuses(*words)
    assert await cluster.owners() == before
    await cluster.does("uncordon", "test-0")
    await cluster.does("rebalance", "--plan", plan_hash)
    await cluster.owned(EVEN)


async def test_balance_by_command(cluster: LocalCluster) -> None:
    """In mode Manual it is made only so; in mode Paused it is refused, and a drain does not begin."""
    await unbalanced(cluster)
    output = await cluster.does("rebalance")
    assert "4 of 4 moved" in output
    assert Counter(await cluster.owners()) == EVEN
    assert "nothing to move" in await cluster.does("rebalance")
    assert "rebalance.mode Manual → Paused" in await cluster.up(3, rebalance="{mode: Paused}")
    assert "Paused" in await cluster.refuses("rebalance")
    assert "test-1 still owns 4 shards: spec.rebalance.mode is Paused" in await cluster.refuses(
        "drain", "test-1", "--wait"
    )
    assert Counter(await cluster.owners()) == EVEN


async def test_shards_have_their_documented_shape(cluster: LocalCluster) -> None:
    """Every field of `shards -o json`, and tables for people."""
    found = json.loads(await cluster.does("shards", "-o", "json"))
    assert set(found) == {"planVersion", "shards"}
    assert [row["id"] for row in found["shards"]] == list(range(12))
    for row in found["shards"]:
        assert set(row) == {"id", "owner", "incarnation", "epoch", "state", "target", "load", "reason", "since", "pin"}
        assert set(row["load"]) == {"commandsPerSecond", "appendMilliseconds"}
        assert row["state"] == "serving"
        assert row["target"] == row["owner"]
    assert "SHARD  OWNER   STATE    TARGET  EPOCH\n" in await cluster.does("shards")
    assert found["shards"][11]["incarnation"] in (await cluster.does("shards", "-o", "wide")).splitlines()[-1]


async def test_history_is_the_newest_first(cluster: LocalCluster) -> None:
    """As many as asked for, of one shard if asked for."""
    changes = await history(cluster, "--shard", "3")
    assert {each["shard"] for each in changes} == {3}
    epochs = [each["epoch"] for each in changes]
    assert epochs == sorted(epochs, reverse=True)
    assert len(await history(cluster, "--limit", "1")) == 1
    assert (await cluster.does("history", "--limit", "1")).startswith("AT ")
    assert "shard: must be an integer from 0 to 11" in await cluster.refuses("history", "--shard", "12")


@pytest.mark.parametrize("verb", [("cordon",), ("uncordon",), ("drain", "--wait"), ("pin", "1")], ids=" ".join)
async def test_an_unknown_worker_is_refused_with_those_there_are(running: LocalCluster, verb: tuple[str, ...]) -> None:
    """The user sees what he could have meant."""
    output = await running.refuses(*verb, "test-9")
    assert "'test-9'" in output
    assert "test-0, test-1, test-2" in output


async def test_every_worker_gives_the_same_answer_with_the_last_change(cluster: LocalCluster) -> None:
    """The internal API: a change made through a worker is in its next answer, and soon in every worker's."""
    context = client_context((cluster.data_dir / "secret").read_text())
    addresses = [worker["managementAddress"] for worker in (await cluster.status())["workers"]]
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, address: str, path: str, body: object = None) -> Any:  # JSON
            url = f"{address.replace('http:', 'https:')}/internal/v1/{path}"
            async with session.request(method, url, json=body, ssl=context, server_hostname=INTERNAL_NAME) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        async def cordoned(address: str) -> tuple[bool, bool]:
            [row] = [row for row in (await ask("GET", address, "ownership"))["workers"] if row["name"] == "test-1"]
            return row["cordoned"], row["draining"]

        for address in addresses:
            await ask("POST", address, "workers/test-1/cordon")
            assert await cordoned(address) == (True, False)
            await ask("POST", address, "workers/test-1/uncordon")
            assert await cordoned(address) == (False, False)
            version = (await ask("GET", address, "ownership"))["planVersion"]
            answer = await ask("PUT", address, "targets", {"planVersion": version, "hash": "mine", "targets": []})
            assert answer == {"planVersion": version + 1}
            found = await ask("GET", address, "ownership")
            assert (found["planVersion"], found["planHash"]) == (version + 1, "mine")

        async def answers() -> set[str]:
            answers = set()
            for address in addresses:
                found = await ask("GET", address, "ownership")
                assert len(found["serving"]) == 4
                for own in ("answeredBy", "serving", "asOf", "answeredAt", "database", "health"):
                    del found[own]
                for row in found["workers"]:
                    del row["beat"]
                answers.add(json.dumps(found))
            return answers

        async with asyncio.timeout(10):
            while len(await answers()) > 1:
                pass
        assert len({json.dumps(await ask("GET", address, "history?limit=9")) for address in addresses}) == 1


async def test_cordons_need_no_supervisor(cluster: LocalCluster) -> None:
    """They are recorded through a worker; what needs a planner says that there is none."""
    supervisor = (await cluster.status())["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        assert "test-2 is cordoned" in await cluster.does("cordon", "test-2")
        assert len(await cluster.shards()) == 12
        assert "does not answer" in await cluster.refuses("plan", code=3)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    async with asyncio.timeout(10):
        while (await states(cluster))["test-2"] != "cordoned":
            pass


async def test_a_dead_workers_shards_stay_with_those_who_took_them(cluster: LocalCluster) -> None:
    """In mode Manual the supervisor moves nothing back: it starts the worker again, and that is all."""
    await cluster.up(3, rebalance=MANUAL)
    before = {worker["name"]: worker["pid"] for worker in (await cluster.status())["workers"]}
    had = [number for number, owner in enumerate(await cluster.owners()) if owner == "test-1"]
    os.kill(before["test-1"], signal.SIGKILL)
    await cluster.owned({"test-0": 6, "test-2": 6})
    after = await cluster.ready()
    assert {worker["name"]: worker["pid"] for worker in after["workers"]}["test-1"] not in (None, before["test-1"])
    assert Counter(await cluster.owners()) == {"test-0": 6, "test-2": 6}
    for shard in had:
        assert (await moves(cluster, "--shard", str(shard)))[0]["kind"] in ("takeover", "restart")


async def test_a_worker_leaves_by_itself(cluster: LocalCluster) -> None:
    """As a pod's preStop hook has it do: its shards are handed over, and the process that follows gets its share."""
    found = (await cluster.status())["workers"][2]
    had = [number for number, owner in enumerate(await cluster.owners()) if owner == "test-2"]
    words = ["--address", found["managementAddress"].removeprefix("http://")]
    words += ["--secret-file", str(cluster.data_dir / "secret")]
    result = await asyncio.to_thread(CliRunner().invoke, shard_worker, ["leave", *words])
    assert result.exit_code == 0, result.output
    assert "leaving: 4 shards still here" in result.output
    changes = [each for each in await moves(cluster) if each["from"] == "test-2"][:4]
    assert sorted(each["shard"] for each in changes) == had
    assert {each["kind"] for each in changes} == {"handoff"}
    await cluster.owned(EVEN)


async def test_fewer_workers_are_emptied_before_they_are_stopped(cluster: LocalCluster) -> None:
    """Every shard of the surplus worker is handed over by a live one, and none is only let go of."""
    had = [number for number, owner in enumerate(await cluster.owners()) if owner == "test-2"]
    output = await cluster.up(2)
    assert "converged: 3 → 2 workers" in output
    for shard in had:
        last = (await moves(cluster, "--shard", str(shard)))[0]
        assert (last["from"], last["kind"]) == ("test-2", "handoff"), last
    assert set(await states(cluster)) == {"test-0", "test-1"}


async def test_changed_settings_leave_every_shard_where_it_was(cluster: LocalCluster) -> None:
    """Each worker is emptied, restarts and gets its shards back, also in mode Manual."""
    await cluster.up(3, rebalance=MANUAL)
    before = await cluster.owners()
    cluster.file.write_text(
        cluster.file.read_text().replace("replicas:", "worker: {passivation: {idleSeconds: 7}}, replicas:")
    )
    output = await cluster.does("local", "up", "-f", str(cluster.file))
    assert "worker settings: " in output
    assert await cluster.owners() == before
    assert {each["kind"] for each in (await moves(cluster, "--limit", "40"))[:24]} == {"handoff"}


async def test_the_printed_addresses_are_there(cluster: LocalCluster) -> None:
    """`up` prints them, `console` prints one again, and `/` of the public port names both without the token."""
    output = await cluster.up(3)
    address = (await cluster.does("console")).strip()
    url = (await cluster.status())["url"]
    assert output.endswith(f"API:     {url}/docs\nConsole: {address}\n")
    console, _, token = address.partition("#token=")
    assert len(token) >= 32
    for log in (cluster.data_dir / "logs").iterdir():
        assert token not in log.read_text(errors="replace")
    async with aiohttp.ClientSession() as client, client.get(f"{url}/") as answer:
        page = await answer.text()
    assert f'href="{console}"' in page
    assert token not in page


async def act(client: aiohttp.ClientSession, address: str, **verb: object) -> tuple[int, str]:
    """Have the console make a change: the status, and its sentence."""
    console, _, token = address.partition("#token=")
    fields = {"Authorization": f"Bearer {token}"}
    async with client.post(f"{console}api/verbs", json=verb, headers=fields) as answer:
        found = await answer.json()
        return answer.status, found.get("done") or found["detail"]


async def test_the_console_makes_changes(cluster: LocalCluster) -> None:
    """As the commands do, and kills a process, which is started again."""
    address = (await cluster.does("console")).strip()
    async with aiohttp.ClientSession() as client:
        assert await act(client, address, verb="drain", worker="test-1") == (200, "drain of test-1 is recorded")
        await cluster.owned({"test-0": 6, "test-2": 6})
        assert (await act(client, address, verb="uncordon", worker="test-1"))[0] == 200
        await cluster.owned(EVEN)
        assert await act(client, address, verb="pin", shard=0, worker="test-2") == (200, "shard 0 is pinned to test-2")
        assert await act(client, address, verb="unpin", shard=0) == (200, "shard 0 is pinned no more")
        assert (await act(client, address, verb="rebalance"))[0] == 200
        status, sentence = await act(client, address, verb="drain", worker="x")
        assert (status, "known are: test-0" in sentence) == (409, True)
        before = (await cluster.status())["workers"][0]["pid"]
        assert (await act(client, address, verb="kill", worker="test-0"))[0] == 200
        assert (await act(client, address, verb="kill", worker="x"))[0] == 409
    found = await cluster.ready()
    while found["workers"][0]["pid"] in (None, before):
        found = await cluster.status()
    assert found["workers"][0]["pid"] != before


ADA = "01HZZZZZZZZZZZZZZZZZZZZZZZ"


async def test_a_thread_is_shown_with_its_owner_its_events_and_its_state(cluster: LocalCluster) -> None:
    """At any of its events; what a terminal would obey is escaped, and JSON is exact."""
    text = "hi \u202e \\ é"
    url = (await cluster.status())["url"]
    async with aiohttp.ClientSession(url) as client:
        created = {"accountId": ADA, "title": "a\u2066b", "administratorIds": [ADA], "memberIds": [ADA]}
        async with client.post("/v1/threads/create", json=created) as answer:
            thread = (await answer.json())["threadId"]
        posted = {"accountId": ADA, "messages": [{"text": text}]}
        fields = {"Idempotency-Key": "k"}
        async with client.post(f"/v1/threads/{thread}/messages/add", json=posted, headers=fields) as answer:
            assert answer.status == 200, await answer.text()
    found = json.loads(await cluster.does("thread", thread, "-o", "json"))
    owner = (await cluster.owners())[found["shard"]]
    assert (found["owner"], found["sequenceNr"], found["more"]) == (owner, 2, False)
    assert [event["type"] for event in found["events"]] == ["ThreadCreated", "MessagesAdded"]
    assert found["events"][1]["payload"]["messages"][0]["text"] == text
    assert [event["keyHash"] is None for event in found["events"]] == [True, False]
    assert len(found["stateAt"]["state"]["messages"]) == 1
    earlier = json.loads(await cluster.does("thread", thread, "--at", "1", "-o", "json"))
    assert (len(earlier["events"]), earlier["stateAt"]["state"]["messages"]) == (1, [])
    shown = await cluster.does("thread", thread)
    assert "\u202e" not in shown
    assert "\u2066" not in shown
    assert "\\u202e" in shown
    assert "title: a\\u2066b" in shown
    assert "live messages: 1" in shown
    assert "no id of a thread" in await cluster.refuses("thread", "x\x1b")
    assert "no such thread was ever created" in await cluster.does("thread", ADA)


@pytest.mark.parametrize(
    "verb",
    [
        ("cordon", "a"),
        ("uncordon", "a"),
        ("drain", "a", "--wait"),
        ("pin", "1", "a"),
        ("unpin", "1"),
        ("plan",),
        ("plan", "--execute", "a"),
        ("rebalance",),
        ("shards",),
        ("history",),
        ("thread", ADA),
    ],
    ids=" ".join,
)
async def test_exit_3_without_a_cluster(data_dir: Path, verb: tuple[str, ...]) -> None:
    """As `local status`: a sentence, and nothing is made."""
    output = await QuickCluster(data_dir).refuses(*verb, code=3)
    assert output == f"no cluster is running on {data_dir}\n"
    assert not data_dir.exists()
