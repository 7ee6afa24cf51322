"""The commands against a real API server: rights, errors about missing objects, and the operator beside them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from click.testing import CliRunner
from threadcluster_operator.cli.kubernetes.rebalance import RebalanceClient
from threadcluster_operator.kube.client import KubeAccess, connect
from threadcluster_operator.main import main

from shard_worker.contract_internal import CordonVerb
from tests.e2e.cluster.conftest import KubeconfigFor
from tests.e2e.cluster.harness import KIND, VERSION, Harness, harness_on, is_ready, thread_cluster
from tests.e2e.cluster.kubeconfig import write_kubeconfig
from tests.fakes.worker_api import MemoryWorkers
from tests.support.kube_api import Api, Refused, reach
from tests.support.paths import ROOT

pytestmark = pytest.mark.cluster

MANIFESTS: Final = ROOT / "manifests"
RIGHTS: Final = MANIFESTS / "users" / "rights.yaml"
RBAC: Final = "rbac.authorization.k8s.io/v1"
SECRET: Final = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "chat.client-internal"},
    "stringData": {"internal": "a word of 16 byte"},
}


async def run(kubeconfig: Path, *words: str) -> tuple[int, str]:
    """A command of the program: its exit code, and all that it says."""
    result = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--kubeconfig", str(kubeconfig)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
async def jane(api: Api, namespace: str, kubeconfig_for: KubeconfigFor) -> Path:
    """A kubeconfig of a user who has the documented role for the ThreadCluster `chat`, in its namespace."""
    await _account(api, namespace, "jane")
    for each in yaml.safe_load_all(RIGHTS.read_text().replace("small", "chat")):
        if each["kind"] == "RoleBinding":
            each["subjects"] = [{"kind": "ServiceAccount", "name": "jane", "namespace": namespace}]
        await api.apply(each, namespace)
    return await kubeconfig_for(namespace, "jane")


async def test_without_rights_the_error_names_the_missing_one(
    api: Api, namespace: str, kubeconfig_for: KubeconfigFor
) -> None:
    """In the API server's words, and with where the rights are."""
    await _account(api, namespace, "stranger")
    code, output = await run(await kubeconfig_for(namespace, "stranger"), "shards", "--name", "chat")
    assert code == 1
    assert 'cannot get resource "threadclusters"' in output
    assert "manifests/users has what the commands need" in output


async def test_status_names_each_missing_right_in_a_row(
    api: Api, namespace: str, jane: Path, kubeconfig_for: KubeconfigFor
) -> None:
    """With verb and resource; a user with the documented role sees the cluster, though no worker can be asked."""
    await api.create(thread_cluster("chat"), namespace)
    await _ready_pod(api, namespace)
    await _account(api, namespace, "stranger")
    code, output = await run(await kubeconfig_for(namespace, "stranger"), "status", "--name", "chat")
    assert (code, output.count('cannot get resource "threadclusters"')) == (0, 1)
    assert output.count('cannot list resource "pods"') == 2  # as a source, and on the way to the workers
    code, output = await run(jane, "status")
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert (code, "chat-0 - Ready -" in lines) == (0, True)
    assert any(line.startswith("workers Secret chat.client-internal is not in namespace") for line in lines)


async def test_the_documented_role_is_for_one_cluster_alone(api: Api, namespace: str, jane: Path) -> None:
    """Another one's Secret and spec are not hers; without a name she may see which there are."""
    for name in ("chat", "other"):
        await api.create(thread_cluster(name), namespace)
    code, output = await run(jane, "pin", "3", "other-1", "--name", "other")
    assert code == 1
    assert "forbidden" in output
    code, output = await run(jane, "shards")
    assert code == 1
    assert "several ThreadClusters; say with --name which one: chat, other" in output


async def test_the_documented_role_changes_no_resource(api: Api, namespace: str, jane: Path) -> None:
    """A user who may edit a ThreadCluster reads every Secret of its namespace; the commands need no such right."""
    await api.create(thread_cluster("chat"), namespace)
    async with reach(jane) as hers:
        for body in ({"spec": {"image": "other:1"}}, {"metadata": {"labels": {"a": "b"}}}):
            with pytest.raises(Refused, match='cannot patch resource "threadclusters"'):
                await hers.patch(VERSION, KIND, "chat", body, namespace)
        with pytest.raises(Refused, match='cannot get resource "secrets"'):
            await hers.get("v1", "Secret", "chat-internal", namespace)


async def test_the_built_in_role_edit_has_what_the_commands_need(
    api: Api, namespace: str, kubeconfig_for: KubeconfigFor
) -> None:
    """By what the installation adds to it; with view a cluster can be looked at, and not changed."""
    for each in yaml.safe_load_all((MANIFESTS / "base" / "users.yaml").read_text()):
        await api.apply(each)
    await api.create(thread_cluster("chat"), namespace)
    for role in ("edit", "view"):
        await api.wait_for(RBAC, "ClusterRole", role, lambda found: "threadclusters" in json.dumps(found["rules"]))
        await _account(api, namespace, role)
        binding = {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": namespace}],
        }
        await api.apply(binding, namespace)
    editor, viewer = [await kubeconfig_for(namespace, role) for role in ("edit", "view")]
    await _ready_pod(api, namespace)
    await api.create(SECRET, namespace)
    code, output = await run(editor, "cordon", "chat-0")
    assert (code, "no port-forward to pod chat-0" in output) == (1, True)  # for want of a kubelet, not of a right
    code, output = await run(viewer, "cordon", "chat-0")
    assert (code, 'cannot get resource "secrets"' in output) == (1, True)


async def test_missing_objects_are_reported(api: Api, namespace: str, jane: Path) -> None:
    """No cluster at all is exit code 3, as for a local one; a cluster whose workers cannot be asked is 1."""
    code, output = await run(jane, "shards")
    assert (code, output) == (3, f"no ThreadCluster in namespace {namespace}; say with --namespace where yours is\n")
    await api.create(thread_cluster("chat"), namespace)
    code, output = await run(jane, "shards")
    assert code == 1
    assert "no worker of chat can be asked: it has no pods" in output
    assert "no context elsewhere; there are tests" in (await run(jane, "plan", "--context", "elsewhere"))[1]


async def test_a_missing_secret_is_reported(api: Api, namespace: str, jane: Path) -> None:
    """A pod is ready and no operator manages the cluster."""
    await api.create(thread_cluster("chat"), namespace)
    await _ready_pod(api, namespace)
    code, output = await run(jane, "shards")
    assert code == 1
    assert f"Secret chat.client-internal is not in namespace {namespace}" in output


async def test_a_forbidden_port_forward_is_reported(api: Api, namespace: str, jane: Path) -> None:
    """It is the last right that is asked for; with it, what is missing here is a kubelet."""
    await api.create(thread_cluster("chat"), namespace)
    await _ready_pod(api, namespace)
    await api.create(SECRET, namespace)
    code, output = await run(jane, "cordon", "chat-0")
    assert code == 1
    assert "no port-forward to pod chat-0" in output
    role = await api.get(RBAC, "Role", "chat-user", namespace)
    role["rules"] = [rule for rule in role["rules"] if "pods/portforward" not in rule["resources"]]
    await api.patch(RBAC, "Role", "chat-user", {"rules": role["rules"]}, namespace)
    async with asyncio.timeout(10):
        while f"needs get and create of pods/portforward in namespace {namespace}" not in output:
            code, output = await run(jane, "cordon", "chat-0")
            assert code == 1


async def test_an_unknown_token_and_a_missing_server_are_reported(api: Api, jane: Path, tmp_path: Path) -> None:
    """Neither is a fault of the program."""
    config = json.loads(jane.read_text())
    config["users"][0]["user"]["token"] = "expired"
    (tmp_path / "expired").write_text(json.dumps(config))
    code, output = await run(tmp_path / "expired", "shards")
    assert code == 1
    assert "the API server does not know you" in output
    away = write_kubeconfig(tmp_path / "away", server="http://127.0.0.1:1", authority="", token="t")
    code, output = await run(away, "shards")
    assert code == 1
    assert "the API server does not answer" in output


# --- beside an operator


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


async def _running(api: Api, namespace: str) -> frozenset[str]:
    labels = "app.kubernetes.io/component=worker"
    return frozenset(each["metadata"]["name"] for each in await api.list("v1", "Pod", namespace, labels=labels))


async def test_what_is_cordoned_or_drained_stays_so_beside_the_operator(harness: Harness) -> None:
    """It plans nothing onto such a worker when the cluster grows, and undoes nothing when another setting changes."""
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    await workers.cordon("chat-0", CordonVerb.CORDON)
    await workers.cordon("chat-1", CordonVerb.DRAIN)
    await harness.edit("chat", {"replicas": 4})
    await _owned(workers, {"chat-0": 8, "chat-2": 4, "chat-3": 4})
    await harness.edit("chat", {"rebalance": {"maxConcurrentMoves": 2}})
    found = await harness.until("chat", is_ready)
    assert {each["name"] for each in found["status"]["workers"] if each["cordoned"]} == {"chat-0", "chat-1"}
    assert not workers.owned_by("chat-1")
    assert len(workers.owned_by("chat-0")) == 8


async def test_a_rebalance_in_mode_manual_is_done_beside_the_operator(harness: Harness) -> None:
    """It moves nothing by itself there, and takes nothing back."""
    workers = await harness.make("chat", rebalance={"mode": "Manual"})
    await harness.until("chat", is_ready)
    await workers.cordon("chat-1", CordonVerb.DRAIN)
    await _owned(workers, {"chat-0": 16})
    await workers.cordon("chat-1", CordonVerb.UNCORDON)
    async with connect(KubeAccess(str(harness.api.kubeconfig))) as kube:
        hand = RebalanceClient(
            kube, workers, lambda: _running(harness.api, harness.namespace), harness.namespace, "chat"
        )
        assert (await hand.rebalance(None))["moves"] == 8
        async with asyncio.timeout(20):
            while (found := await hand.progress())["left"]:
                await asyncio.sleep(0.05)
    assert found["givenUp"] == []
    await harness.until("chat", is_ready)
    assert Counter(shard.owner for shard in (await workers.ownership()).shards) == {"chat-0": 8, "chat-1": 8}


async def _owned(workers: MemoryWorkers, wanted: dict[str, int], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while Counter(shard.owner for shard in (await workers.ownership()).shards) != wanted:
            await asyncio.sleep(0.05)


async def _account(api: Api, namespace: str, name: str) -> None:
    await api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace)


async def _ready_pod(api: Api, namespace: str) -> None:
    labels = {
        "app.kubernetes.io/name": "threadcluster",
        "app.kubernetes.io/instance": "chat",
        "app.kubernetes.io/component": "worker",
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat-0", "labels": labels}}
    await api.apply(pod | {"spec": {"nodeName": "nowhere", "containers": [{"name": "w", "image": "w:1"}]}}, namespace)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await api.patch("v1", "Pod", "chat-0", {"status": status}, namespace, sub="status")
