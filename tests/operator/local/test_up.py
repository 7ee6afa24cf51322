"""`threadcluster local`: what a user does with it, through the command line alone."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio
from click.testing import CliRunner
from threadcluster_operator.main import main

from tests.support.load.chat import PACE_S, Recorder, drive, verify
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.polling import eventually, more_acknowledged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A cluster for the tests that leave it as it is."""
    async with local_cluster(tmp_path_factory.mktemp("running") / "data", 2, shards=8) as cluster:
        yield cluster


@pytest.mark.asyncio(loop_scope="module")
async def test_the_printed_lines_work_as_printed(running: LocalCluster) -> None:
    """`up` prints a URL and three curl lines; a shell runs them and reads its own message back."""
    log_text = (running.data_dir / "logs" / "supervisor.log").read_text()
    assert f"ready: {(await running.status())['url']}" in log_text
    lines = re.findall(r"^  ((?:THREAD=|curl ).*)$", log_text, re.MULTILINE)
    assert len(lines) == 3
    shell = await asyncio.create_subprocess_exec(
        "sh", "-ec", "\n".join(lines), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await shell.communicate()
    assert shell.returncode == 0, err.decode()
    assert '"body":"hi there"' in out.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_status_has_its_documented_shape(running: LocalCluster) -> None:
    """Every field of `status -o json`, and a table on a terminal."""
    found = await running.status()
    fields = {"name", "ready", "url", "replicas", "claimedByOther", "dataDir", "supervisor", "postgres", "workers"}
    fields |= {"disk", "database", "failures"}
    assert set(found) == fields
    assert found["claimedByOther"] is None
    assert (found["name"], found["ready"], found["replicas"]) == ("test", True, 2)
    assert found["dataDir"] == str(running.data_dir)
    assert set(found["postgres"]) == {"pid", "dsn", "dataDir"}
    assert set(found["supervisor"]) == {"pid"}
    for worker in found["workers"]:
        fields = {"name", "pid", "state", "incarnation", "address", "managementAddress", "shards"}
        assert set(worker) == fields
        assert worker["state"] == "ready"
        assert "shard_worker.main" in " ".join(psutil.Process(worker["pid"]).cmdline())
    assert sorted(shard for worker in found["workers"] for shard in worker["shards"]) == list(range(8))
    _, table = await running.command("status")
    assert "test-0  ready" in table


@pytest.mark.asyncio(loop_scope="module")
async def test_workers_have_no_superuser_and_no_argument_has_a_password(running: LocalCluster) -> None:
    """Of all processes of a running cluster; a control request with any header gets an answer."""
    found = await running.status()
    admin = await asyncpg.connect(running.admin_dsn)
    try:
        logins = await admin.fetch(
            "SELECT DISTINCT a.usename, r.rolsuper FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename"
            " WHERE a.application_name = $1",
            found["workers"][0]["incarnation"],
        )
    finally:
        await admin.close()
    assert [tuple(row) for row in logins] == [("threadcluster_worker_login", False)]
    passwords = [(running.data_dir / "postgres" / name).read_text().strip() for name in ("password", "worker-password")]
    supervisor = psutil.Process(found["supervisor"]["pid"])
    family = [supervisor, *supervisor.children(recursive=True)]
    arguments = ""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a session of Postgres ends when it likes
            arguments += " ".join(process.cmdline()) + " "
    assert "shard_worker.main" in arguments
    assert not [password for password in passwords if password in arguments]
    assert _control_answer(running.data_dir, b"Bearer \xff\xfe\x80").startswith(b"HTTP/1.1 401")
    assert (await running.status())["ready"]


def _control_answer(data_dir: Path, authorization: bytes) -> bytes:
    """The control port's answer to a header."""
    port = int(json.loads((data_dir / "control.json").read_text())["url"].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + authorization + b"\r\n\r\n"
        )
        return connection.recv(65536)


async def test_status_answers_while_workers_are_stopped_or_dead(data_dir: Path) -> None:
    """Within five seconds on an idle machine, whatever the workers do; a dead one is started again without help.

    A busy machine is known by what the command takes there while all workers answer.
    """
    async with local_cluster(data_dir, 2) as cluster:
        began = time.monotonic()
        frozen, dead = (await cluster.status())["workers"]
        bound_s = 4.0 + 3 * (time.monotonic() - began)
        os.kill(frozen["pid"], signal.SIGSTOP)
        os.kill(dead["pid"], signal.SIGKILL)
        async with asyncio.timeout(bound_s):
            found = await cluster.status()
        assert found["ready"] in (False, True)
        states: dict[str, str] = {}
        async with asyncio.timeout(15 + bound_s):
            while states.get(frozen["name"]) != "silent":
                async with asyncio.timeout(bound_s):
                    states = {worker["name"]: worker["state"] for worker in (await cluster.status())["workers"]}
        os.kill(frozen["pid"], signal.SIGCONT)
        after = await cluster.ready()
        pids = {worker["name"]: worker["pid"] for worker in after["workers"]}
        assert pids[frozen["name"]] == frozen["pid"]
        assert pids[dead["name"]] != dead["pid"]


async def test_workers_come_and_go_while_clients_chat(data_dir: Path) -> None:
    """2 → 3 → 1 by handing over a new resource: nothing lost, nothing doubled, nothing refused for good."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with local_cluster(data_dir, 2) as cluster:
        url = (await cluster.status())["url"]
        stop, recorder = asyncio.Event(), Recorder(seed=seed, clients=16)
        driving = asyncio.create_task(
            drive(url, clients=16, until=stop, seed=seed, grace_s=30, pause_s=PACE_S, recorder=recorder)
        )
        await more_acknowledged(recorder, 200)
        for replicas in (3, 1):
            output = await cluster.up(replicas)
            assert f"→ {replicas} workers" in output
            found = await cluster.status()
            assert found["ready"]
            assert [worker["name"] for worker in found["workers"]] == [f"test-{n}" for n in range(replicas)]
            await more_acknowledged(recorder, 200)
        stop.set()
        assert await verify(url, await driving) == []
        await cluster.fsck()


async def test_changed_worker_settings_reach_every_worker(data_dir: Path) -> None:
    """The workers restart, one after another; afterwards each runs with the new settings, and serves."""
    async with local_cluster(data_dir, 2, shards=8) as cluster:
        before = {worker["pid"] for worker in (await cluster.status())["workers"]}
        text = cluster.file.read_text().replace("shards: 8", "shards: 8, worker: {passivation: {idleSeconds: 7}}")
        cluster.file.write_text(text)
        code, output = await cluster.command("up", "-f", str(cluster.file), "--detach")
        assert code == 0, output
        assert "worker settings" in output
        assert "without effect here" not in output
        after = [worker["pid"] for worker in (await cluster.status())["workers"]]
        assert not before & set(after)
        for pid in after:
            assert psutil.Process(pid).environ()["SHARD_WORKER_PASSIVATION_IDLE_SECONDS"] == "7"


@pytest.mark.asyncio(loop_scope="module")
async def test_fields_for_kubernetes_alone_are_accepted_and_reported(running: LocalCluster) -> None:
    """It restarts no worker."""
    before = [worker["pid"] for worker in (await running.status())["workers"]]
    more = "shards: 8, image: 'threadcluster:1', worker: {resources: {limits: {memory: 1Gi}}}"
    running.file.write_text(running.file.read_text().replace("shards: 8", more))
    code, output = await running.command("up", "-f", str(running.file), "--detach")
    assert code == 0, output
    assert "for Kubernetes alone, without effect here: spec.image, spec.worker.resources" in output
    assert "nothing changes" in output
    assert [worker["pid"] for worker in (await running.status())["workers"]] == before


async def test_what_may_not_change_is_refused_by_name(data_dir: Path) -> None:
    """Another shard count or another cluster's name on the same data: refused while it runs and when it does not."""
    cluster = LocalCluster(data_dir, shards=8)
    await cluster.up(1)
    assert "nothing changes" in await cluster.up(1)
    for _ in range(2):
        with pytest.raises(AssertionError, match=r"spec\.shards: .*8"):
            await cluster.up(1, shards=16)
        cluster.file.write_text(cluster.file.read_text().replace("shards: 16", "shards: 8").replace("test", "other"))
        code, output = await cluster.command("up", "-f", str(cluster.file), "--detach", "--port", "0")
        assert code != 0
        assert "metadata.name" in output
        if data_dir.exists() and (await cluster.status())["ready"]:
            await cluster.down()


async def test_a_busy_port_is_named_with_its_remedy(data_dir: Path) -> None:
    """Nothing is left running, and the message says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cluster = LocalCluster(data_dir)
        cluster.file.write_text("{apiVersion: threadcluster.io/v1alpha1, kind: ThreadCluster, metadata: {name: test}}")
        code, output = await cluster.command("up", "-f", str(cluster.file), "--port", str(port))
        assert code == 1
        assert f"port {port} is taken" in output
        assert "--port" in output
        assert (await cluster.status())["supervisor"]["pid"] is None


HEAD = "apiVersion: threadcluster.io/v1alpha1\nkind: ThreadCluster\n"
WRONG = {
    "unknown-field": (
        HEAD + "metadata: {name: a}\nspec: {worker: {passivation: {idleSecond: 3}}}",
        "idleSecond",
        "unknown",
    ),
    "wrong-type": (HEAD + "metadata: {name: a}\nspec: {shards: many}", "spec.shards", "integer"),
    "out-of-range": (HEAD + "metadata: {name: a}\nspec: {shards: 5000}", "spec.shards", "4096"),
    "no-name": (HEAD + "metadata: {}", "metadata.name", "Required value"),
    "long-name": (HEAD + "metadata: {name: " + "a" * 41 + "}", "metadata.name", "40"),
    "wrong-kind": (HEAD.replace("ThreadCluster", "Deployment"), "kind", "Deployment"),
    "wrong-version": (HEAD.replace("v1alpha1", "v9") + "metadata: {name: a}", "apiVersion", "v1alpha1"),
    "missing-secret": (
        HEAD + "metadata: {name: a}\nspec: {database: {urlSecretKeyRef: {name: db}}}",
        "spec.database.urlSecretKeyRef.name",
        "no Secret 'db'",
    ),
    "missing-key": (
        HEAD
        + "metadata: {name: a}\nspec: {database: {urlSecretKeyRef: {name: db, key: dsn}}}\n---\n"
        + "kind: Secret\nmetadata: {name: db}\nstringData: {url: x}",
        "spec.database.urlSecretKeyRef.key",
        "no key 'dsn'",
    ),
    "not-yaml": ("a: [", "not YAML", ""),
    "two-clusters": (HEAD + "metadata: {name: a}\n---\n" + HEAD + "metadata: {name: b}", "exactly one", "2 found"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_resource_names_field_and_reason_and_starts_nothing(data_dir: Path, case: str) -> None:
    """The message is enough to mend the file; no data directory is made."""
    text, field, reason = WRONG[case]
    file = data_dir.with_suffix(".yaml")
    file.write_text(text)
    done = CliRunner().invoke(main, ["local", "up", "--data-dir", str(data_dir), "-f", str(file)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert field in done.output
    assert reason in done.output
    assert not data_dir.exists()


async def test_a_refused_resource_ends_the_command(data_dir: Path) -> None:
    """As a process of its own: exit code 1 and a sentence, no traceback."""
    cluster = LocalCluster(data_dir)
    cluster.file.write_text(HEAD + "metadata: {name: a}\nspec: {shards: many}")
    assert "spec.shards" in await cluster.refuses("local", "up", "-f", str(cluster.file))


async def test_ctrl_c_stops_everything_in_order(data_dir: Path) -> None:
    """SIGINT to a foreground `up`: workers leave, Postgres stops, the exit code is 0, and nothing is left."""
    cluster = LocalCluster(data_dir)
    cluster.file.write_text(HEAD + "metadata: {name: test}\nspec: {replicas: 2, shards: 8}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "threadcluster_operator.main", "local", "up", "-f", str(cluster.file), "--data-dir", str(data_dir)),
        *("--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"] ready: " not in await process.stdout.readline():
            pass
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 3
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        output = (await process.stdout.read()).decode()
        assert await process.wait() == 0, output
    assert "the data stays" in output
    assert not [child for child in children if child.is_running()]


async def test_workers_outlive_a_killed_supervisor_only_to_leave(data_dir: Path) -> None:
    """Kill -9 of the supervisor alone: its workers leave in order by themselves, and the next `up` goes on."""
    cluster = LocalCluster(data_dir)
    await cluster.up(2)
    found = await cluster.status()
    workers = [psutil.Process(worker["pid"]) for worker in found["workers"]]
    os.kill(found["supervisor"]["pid"], signal.SIGKILL)
    await eventually(lambda: not any(worker.is_running() for worker in workers), within_s=25)
    assert '"event": "left"' in (data_dir / "logs" / "test-0.log").read_text()
    await cluster.up(2)
    assert (await cluster.status())["ready"]
    await cluster.down()
    assert json.dumps(await cluster.status())
    assert f"deleted {data_dir}" in await cluster.does("local", "down", "--delete", "--yes")
    assert not data_dir.exists()
