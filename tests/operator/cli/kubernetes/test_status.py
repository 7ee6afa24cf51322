"""`threadcluster status` and `logs` on Kubernetes: an API server that answers some of what it is asked."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from threadcluster_operator.kube.client import POD, SECRET, THREAD_CLUSTER
from threadcluster_operator.main import main

from tests.fakes.api_server import CLUSTER, PULLING, READY, ApiServer, api_server, pod


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    """A server with the cluster, two pods and no Secret, as the current context of the only kubeconfig."""
    async with api_server(tmp_path / "config") as server:
        server.put(THREAD_CLUSTER, CLUSTER)
        server.put(POD, pod("chat-0", **READY), pod("chat-1", **PULLING))
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield server


async def run(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    result = await asyncio.to_thread(CliRunner().invoke, main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


async def test_without_a_local_cluster_the_current_context_is_meant(api: ApiServer) -> None:
    """It is named first; conditions and pods are shown though the workers cannot be asked."""
    code, shown, first = await run("status")
    assert (code, first) == (0, "namespace here, context kind\n")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "chat: ready, http://chat.here.svc"
    assert "Ready True Reconciled Every worker is as wanted." in lines
    assert "chat-0 - Ready -" in lines
    assert "chat-1 - ImagePullBackOff -" in lines
    assert [line for line in lines if line.startswith("workers Secret chat.client-internal is not in namespace here")]


async def test_each_missing_right_is_a_row_with_verb_and_resource(api: ApiServer) -> None:
    """The rest is shown; a program finds the same."""
    api.set(POD, None, 403)
    code, shown, _ = await run("status")
    assert code == 0
    assert "Ready      True    Reconciled  Every worker is as wanted." in shown
    assert 'pods       User "jane" cannot list resource "pods"' in shown
    assert 'workers    User "jane" cannot list resource "pods"' in shown
    assert "manifests/users has what the commands need" in shown
    code, shown, errors = await run("status", "-o", "json")
    found = json.loads(shown)
    assert (code, errors) == (0, "")
    assert (found["name"], found["namespace"], found["context"], found["ready"]) == ("chat", "here", "kind", True)
    assert [each["source"] for each in found["failures"]] == ["pods", "workers"]


async def test_a_silent_source_delays_no_other(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own time-out, and its own row."""
    monkeypatch.setattr("threadcluster_operator.cli.kubernetes.status._OBJECT_S", 1.0)
    monkeypatch.setattr("threadcluster_operator.cli.kubernetes.status._WORKERS_S", 1.0)
    api.set(SECRET, "chat.client-internal", None)
    _, shown, _ = await run("status", "--name", "chat")
    assert "workers    no answer within 1 s" in shown
    assert "chat-0  -      Ready" in shown
    api.set(THREAD_CLUSTER, "chat", None)
    _, shown, _ = await run("status", "--name", "chat")
    assert "ThreadCluster  no answer within 1 s" in shown
    assert "chat-0  -      Ready" in shown


async def test_no_api_server_and_no_cluster_are_two_answers(api: ApiServer) -> None:
    """The second is exit code 3."""
    code, shown, _ = await run("status", "--name", "caht")
    assert (code, "no ThreadCluster caht in namespace here; there are chat" in shown) == (3, True)
    text = api.kubeconfig.read_text()
    api.kubeconfig.write_text(
        text[: text.index("127.0.0.1")] + "127.0.0.1:1" + text[text.index("\n", text.index("127.0.0.1")) :]
    )
    code, shown, _ = await run("status")
    assert (code, "API server  the API server does not answer" in shown) == (0, True)


@pytest.mark.parametrize("answer", [{}, {"kind": "APIVersions"}, {"versions": 1}, 404, 401])
async def test_another_server_at_the_address_is_named(api: ApiServer, answer: dict[str, Any] | int) -> None:
    """As with a wrong port in the kubeconfig: it is no API server, whatever else it is."""
    api.answers["/api"] = api.answers["/apis"] = answer
    code, shown, _ = await run("status")
    assert (code, "NOT KNOWN" in shown) == (0, True)
    assert shown.splitlines()[-1].startswith("API server  ")
    code, _, errors = await run("shards")
    assert (code, "Error: " in errors) == (1, True)
    assert "does not know you" in errors or answer != 401


async def test_the_kinds_of_a_server_are_kept_in_no_file(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every user of the machine could write that; and the next server at the address may have other kinds."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    code, shown, _ = await run("status", "--name", "chat")
    assert (code, "chat-0" in shown) == (0, True)
    assert sorted(tmp_path.iterdir()) == before


KUBECTL = """#!/bin/sh
echo "$KUBECONFIG $*"
case "$*" in
  *exec*) echo "command terminated with exit code 1" >&2; exit 1;;
esac
"""


async def test_kubectl_gets_the_target_that_was_found(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Context, namespace, name and kubeconfig; fsck's own exit code is another than kubectl's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, errors = await run("logs", "-n", "here")
    assert (code, "needs kubectl, which is not on the PATH" in errors) == (1, True)
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert (await run("logs"))[0] == 0
    assert (await run("logs", "chat-1", "-f"))[0] == 0
    assert (await run("fsck", "-o", "json"))[0] == 1
    program.write_text(KUBECTL.replace("command terminated with exit code 1", "you cannot create resource pods/exec"))
    code, _, errors = await run("fsck")
    assert (code, errors.splitlines()[-1]) == (3, "you cannot create resource pods/exec")
    output = capfd.readouterr()
    head = f"{api.kubeconfig} --context kind --namespace here"
    lines = output.out.splitlines()
    assert lines[0].startswith(f"{head} logs --container worker --tail 200 --selector ")
    assert "instance=chat" in lines[0]
    assert lines[1] == f"{head} logs --container worker --tail 200 --follow chat-1"
    assert lines[2] == f"{head} exec chat-0 --container worker -- shard-worker fsck --output json"
    code, _, errors = await run("logs", "chat-7")
    assert (code, "there are chat-0, chat-1; did you mean chat-" in errors) == (1, True)
