"""The `threadcluster` commands on a real node, run by a user with the documented rights alone."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster.kubeconfig import for_token
from tests.support.kube_api import Api
from tests.support.paths import ROOT

RIGHTS = ROOT / "manifests" / "users" / "rights.yaml"
USER = "jane"
_WITHIN_S = 60.0


class Commands:
    """The program, run by that user; it finds the cluster by the context's namespace and the name."""

    def __init__(self, kubeconfig: Path, cluster: str) -> None:
        self._kubeconfig = kubeconfig
        self._cluster = cluster

    async def does(self, *words: str) -> str:
        """Output of a command that must succeed; on standard error it names the cluster that it means, and says no more."""
        pipe = asyncio.subprocess.PIPE
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "threadcluster_operator.main", *words, "--name", self._cluster),
            env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            stdout=pipe,
            stderr=pipe,
        )
        output, complained = await running.communicate()
        named = f"ThreadCluster {self._cluster}, namespace "
        others = [line for line in complained.decode().splitlines() if not line.startswith(named)]
        assert (running.returncode, others) == (0, []), f"{words}: {complained.decode()}"
        return output.decode()

    async def shards(self) -> list[dict[str, Any]]:
        """The document of `shards -o json`."""
        found: list[dict[str, Any]] = json.loads(await self.does("shards", "-o", "json"))["shards"]
        return found

    async def owned(self, wanted: dict[str, int]) -> None:
        """Wait until each worker has its number of shards."""
        deadline = time.monotonic() + _WITHIN_S
        while (found := Counter(each["owner"] for each in await self.shards())) != wanted:
            assert time.monotonic() < deadline, f"{found} instead of {wanted}"


async def commands_for(api: Api, namespace: str, cluster: str, folder: Path) -> Commands:
    """The documented role, given to a user of its own."""
    await api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": USER}}, namespace)
    for each in yaml.safe_load_all(RIGHTS.read_text().replace("small", cluster)):
        if each["kind"] == "RoleBinding":
            each["subjects"] = [{"kind": "ServiceAccount", "name": USER, "namespace": namespace}]
        await api.apply(each, namespace)
    token = await api.token_of(namespace, USER)
    return Commands(for_token(folder / "jane.kubeconfig", api.kubeconfig, token, namespace=namespace), cluster)


async def commands_work(api: Api, namespace: str, folder: Path) -> None:
    """On `chat`, whose two workers have 12 shards each, and have that again afterwards."""
    user = await commands_for(api, namespace, "chat", folder)
    even = {"chat-0": 12, "chat-1": 12}
    await user.owned(even)
    assert "nothing to move" in await user.does("plan")

    await user.does("cordon", "chat-1")
    await _operator_says(api, namespace, cordoned=True)
    await user.owned(even)
    output = await user.does("drain", "chat-1", "--wait")
    assert output.splitlines()[-1] == "chat-1 owns nothing"
    await _edit(api, namespace, {"mode": "Manual"})
    await user.does("uncordon", "chat-1")
    await _operator_says(api, namespace, cordoned=False)
    await user.owned({"chat-0": 24})

    assert "pinned to chat-1" in await user.does("pin", "7", "chat-1")
    assert (await user.shards())[7]["pin"] == {"worker": "chat-1", "source": "command"}
    await user.owned({"chat-0": 23, "chat-1": 1})
    assert (await user.shards())[7]["owner"] == "chat-1"
    assert "shard 7 is pinned no more" in await user.does("unpin", "7")

    plan = json.loads(await user.does("plan", "-o", "json"))
    assert {move["target"] for move in plan["moves"]} == {"chat-1"}
    assert "11 of 11 moved" in await user.does("plan", "--execute", plan["hash"])
    await user.owned(even)
    changes = json.loads(await user.does("history", "--limit", "11", "-o", "json"))["changes"]
    assert {(each["from"], each["to"], each["kind"]) for each in changes} == {("chat-0", "chat-1", "handoff")}
    assert "nothing to move" in await user.does("rebalance")
    await _edit(api, namespace, {"mode": "Auto"})


async def _edit(api: Api, namespace: str, rebalance: dict[str, str]) -> None:
    spec = {"spec": {"rebalance": rebalance}}
    await api.patch("threadcluster.io/v1alpha1", "ThreadCluster", "chat", spec, namespace)


async def _operator_says(api: Api, namespace: str, *, cordoned: bool) -> None:
    """It has looked since."""
    await api.wait_for(
        "threadcluster.io/v1alpha1",
        "ThreadCluster",
        "chat",
        lambda found: (
            {each["name"]: each.get("cordoned", False) for each in found["status"]["workers"]}["chat-1"] == cordoned
        ),
        namespace,
    )
