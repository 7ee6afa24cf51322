"""Mistakes on a running cluster, typed once more: each is a sentence that helps.  Those without a cluster, and all about files:
`tests/operator/cli/test_mistakes.py`.

One cluster for all of it, whose `up` runs in the foreground and writes to a reader that has ended.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from threadcluster_operator.local.database_choice import without_password
from threadcluster_operator.main import main

from tests.support.local_cluster import QuickCluster
from tests.support.polling import eventually

HEAD = "apiVersion: threadcluster.io/v1alpha1\nkind: ThreadCluster\nmetadata: {name: test}\n"
SPEC = "spec: {shards: 4, replicas: 2, rebalance: {mode: Manual}}\n"
DATABASE = "---\nkind: Secret\nmetadata: {name: db}\nstringData: {url: 'postgresql://u:hunter2@h/d'}\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def process(
    words: list[str], stdout: int = subprocess.PIPE, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A real process of the program."""
    command = [sys.executable, "-m", "threadcluster_operator.main", *words]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[QuickCluster]:
    """Two workers and four shards, in mode Manual: what a test moves stays."""
    place = tmp_path_factory.mktemp("here") / ".threadcluster"
    place.mkdir()
    made = QuickCluster(place / "test", shards=4)
    made.file.write_text(HEAD + SPEC)
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = ["local", "up", "-f", str(made.file), "--port", "0", "--data-dir", str(made.data_dir)]
    supervisor = process(words, write_end)
    os.close(write_end)
    await eventually(lambda: (made.data_dir / "control.json").exists(), within_s=60, what="the supervisor listens")
    await made.ready()
    yield made
    assert supervisor.poll() is None, "the cluster ended with the reader of its output"
    await made.down()
    assert supervisor.wait(10) == 0


def typed(line: str, given: str = "") -> Result:
    """The result of a line."""
    result = CliRunner().invoke(main, line.split(), input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def port_of(cluster: QuickCluster) -> int:
    """The public port."""
    return int((await cluster.status())["url"].rpartition(":")[2])


async def test_bare_names_reach_the_cluster_and_say_which(
    cluster: QuickCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder in which it was brought up; the place is named beside the output."""
    monkeypatch.chdir(cluster.data_dir.parent.parent)
    for line in ("shards", "status", "history", "shards --name test"):
        result = await asyncio.to_thread(typed, line)
        named = "" if line == "status" else "cluster test, "  # its first line has the name
        assert (result.exit_code, result.stderr) == (0, f"{named}local, {cluster.data_dir}\n")
    assert "test-0  ready" in (await asyncio.to_thread(typed, "status")).stdout
    assert json.loads((await asyncio.to_thread(typed, "shards -o json")).output)


async def test_the_last_worker_is_not_emptied(cluster: QuickCluster) -> None:
    """Drain, plan, rebalance and pin say why they do nothing."""
    assert "nothing to move: no worker has more than its share" in await cluster.does("plan")
    assert "gets no more\n" in await cluster.does("cordon", "test-1")
    closed = "every worker is cordoned or draining, so none may have them"
    shard = next(row["id"] for row in await cluster.shards() if row["owner"] == "test-1")
    for sentence, words in (
        (f"for now nothing moves: {closed}", ("drain", "test-0")),
        (f"no shard can move now: {closed}", ("cordon", "test-1")),
        (f"nothing to move: {closed}", ("plan",)),
        (f"nothing to move: {closed}", ("rebalance",)),
        ("for now it does not move: test-0 is draining", ("pin", str(shard), "test-0")),
    ):
        async with asyncio.timeout(10):  # every worker has read the last change soon
            while sentence not in await cluster.does(*words):
                pass
    assert "is pinned no more" in await cluster.does("unpin", str(shard))
    assert "is not pinned by command" in await cluster.does("unpin", str(shard))
    for worker in ("test-0", "test-1"):
        assert "`threadcluster rebalance` gives it its share" in await cluster.does("uncordon", worker)
    assert "there are test-0, test-1" in await cluster.refuses("pin", "1", "test-7")
    assert "has shards 0 to 3" in await cluster.refuses("unpin", "4")


async def test_what_a_running_cluster_cannot_become_is_refused(cluster: QuickCluster) -> None:
    """Today's port and database stay, whatever way another one is asked for; the sentence says what to do first."""
    port = await port_of(cluster)
    database = cluster.file.with_suffix(".dsn")
    database.write_text("postgresql://h/d")
    up = ("local", "up", "-f", str(cluster.file))
    for words, sentence in (
        (("--port", "9"), f"--port: the cluster runs on port {port}, and does not change to 9"),
        (("--database-url", "postgresql://h/d"), "--database-url: the cluster runs on another database"),
        (("--database-url-file", str(database)), f"{database}: the cluster runs on another database"),
        (("--take-over", "u"), "--take-over: the cluster runs"),
    ):
        assert sentence in await cluster.refuses(*up, *words)
    for spec, sentence in (
        ("gateway: {service: {port: 9}}", f"spec.gateway.service.port: the cluster runs on port {port}"),
        ("database: {urlSecretKeyRef: {name: db}}", "spec.database: the cluster runs on another database"),
    ):
        cluster.file.write_text(HEAD + SPEC.replace("{shards", f"{{{spec}, shards") + DATABASE)
        output = await cluster.refuses(*up)
        assert sentence in output
        assert "stop it with `threadcluster local down`, then bring it up so" in output
        assert "hunter2" not in output
    cluster.file.write_text(HEAD + SPEC)
    assert "nothing changes" in await cluster.does(*up, "--port", str(port))


async def test_a_resource_may_come_by_standard_input(cluster: QuickCluster) -> None:
    """As of `kubectl apply -f -`."""
    line = f"local up -f - --data-dir {cluster.data_dir}"
    result = await asyncio.to_thread(typed, line, HEAD + SPEC)
    assert (result.exit_code, "nothing changes" in result.output) == (0, True), result.output
    result = await asyncio.to_thread(typed, line, HEAD + SPEC.replace("replicas", "replica"))
    assert "standard input, document 1: spec.replica: unknown field; did you mean replicas?" in result.output


async def test_no_document_has_a_password(cluster: QuickCluster) -> None:
    """Neither status nor any other output; the DSN is there without it."""
    passwords = [(cluster.data_dir / "postgres" / name).read_text().strip() for name in ("password", "worker-password")]
    shown = [await cluster.does("status", *words) for words in ((), ("-o", "json"))]
    assert json.loads(shown[1])["postgres"]["dsn"].startswith("postgresql://threadcluster@127.0.0.1:")
    assert json.loads(shown[1])["database"]["state"] == "connected"
    assert json.loads(shown[1])["failures"] == []
    for password in [*passwords, (cluster.data_dir / "secret").read_text()]:
        assert password not in "".join(shown)


async def test_status_shows_what_answers_while_the_supervisor_is_frozen(
    cluster: QuickCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for it; the workers are asked directly."""
    monkeypatch.setattr("threadcluster_operator.cli.local_status._SUPERVISOR_S", 0.3)
    supervisor = (await cluster.status())["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        code, output = await cluster.verb("status")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert code == 3
    assert "supervisor  no answer within 0.3 s" in output
    assert "test-0  ready" in output
    assert "test-1  ready" in output


async def test_the_journal_is_proved_and_logs_are_shown(
    cluster: QuickCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """By processes of their own, which get the cluster that was found."""
    assert (await cluster.verb("fsck"))[0] == 0
    assert "clean" in capfd.readouterr().out
    assert (await cluster.verb("logs", "test-1"))[0] == 0
    assert '"event": ' in capfd.readouterr().out
    assert "did you mean test-0?" in await cluster.refuses("logs", "tset-0")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"pid": 0, "managementPort": 1}', b'{"pid": "1"}'])
async def test_a_damaged_record_of_a_worker_is_passed_over(cluster: QuickCluster, content: bytes) -> None:
    """As is one of a process that is gone, and a file that is none: the others are asked."""
    path = cluster.data_dir / "run" / "migration.json"
    path.write_bytes(content)
    try:
        assert len(await cluster.shards()) == 4
    finally:
        path.unlink()


async def test_an_ended_reader_and_another_locale_are_no_crash(cluster: QuickCluster) -> None:
    """The arrow in what `up` prints is no ASCII; `shards --watch` ends with its reader, and by Ctrl-C."""
    place = ["--data-dir", str(cluster.data_dir)]
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    up = process(["local", "up", "-f", str(cluster.file), *place], environment=ascii_only)
    left, stopped = (process(["shards", "--watch", *place]) for _ in range(2))
    output, errors = await asyncio.to_thread(up.communicate)
    assert up.returncode == 0, errors
    assert b" 2 workers, http://" in output  # after an arrow
    for each in (left, stopped):
        assert each.stdout is not None
        assert await asyncio.to_thread(each.stdout.readline) == b"SHARD  OWNER   STATE    TARGET  EPOCH\n"
    assert left.stdout is not None
    left.stdout.close()
    stopped.send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(stopped.communicate)
    assert (stopped.returncode, errors.count(b"\n")) == (0, 1), errors
    owner = (await cluster.owners())[0]
    await cluster.does("pin", "0", "test-1" if owner == "test-0" else "test-0")
    assert await asyncio.to_thread(left.wait, 20) == 1  # it had something new to write
    assert left.stderr is not None
    assert left.stderr.read().count(b"\n") == 1
    await cluster.does("pin", "0", owner)
    await cluster.owned({"test-0": 2, "test-1": 2})
    await cluster.does("unpin", "0")


async def test_a_dsn_is_shown_without_its_password() -> None:
    """Every place in a DSN where a password may be; a text that is no DSN is not shown at all."""
    for dsn in (
        "postgresql://u:hunter2@h:5432/d",
        "postgres://u:hunter2@h1,[::1]:5/d?sslmode=require",
        "postgresql://u@h/d?password=hunter2&sslmode=require",
        "postgresql://h/d?sslmode=require&sslpassword=hunter2",
        "postgresql://u:hunter2%40x@h/d",
        "postgresql://u:hun/ter2@h/d",
        "postgresql://u:hunter2@x@h/d",
        "mysql://u:hunter2@h/d",
        "host=h password=hunter2",
    ):
        assert "hunter2" not in without_password(dsn)
        assert "ter2" not in without_password(dsn)
    assert without_password("postgresql://u:hunter2@h:5/d?sslmode=require") == "postgresql://u@h:5/d?sslmode=require"
