"""The node of the tests is a real one: it runs containers, Services lead to them, and nothing of it reaches the machine."""

from collections.abc import Callable

import pytest

from tests.e2e.node import pause
from tests.e2e.node.conftest import Cluster
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.node

_SERVER = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)"


def runs(name: str, container: Object, *, restart: str = "Always", token: bool = False) -> Object:
    """A pod of one container, from an image that the node has."""
    spec = {"automountServiceAccountToken": token, "terminationGracePeriodSeconds": 1, "restartPolicy": restart}
    containers = [{"name": "main", "imagePullPolicy": "IfNotPresent", **container}]
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "containers": containers}}


def in_phase(phase: str) -> Callable[[Object], bool]:
    """Whether a pod has come so far."""
    return lambda pod: bool(pod["status"]["phase"] == phase)


def is_ready(found: Object) -> bool:
    """Whether an object's Ready condition holds."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in found["status"].get("conditions", ()))


async def test_the_node_is_ready(node: Cluster, api: Api) -> None:
    """As kubelet itself says, and as kubectl shows."""
    (found,) = await api.list("v1", "Node")
    assert is_ready(found)
    assert found["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert " Ready " in await node.kubectl("get", "nodes")


async def test_a_pod_runs_and_goes(api: Api, namespace: str) -> None:
    """The smallest container there is."""
    await api.apply(runs("small", {"image": pause.NAME}), namespace)
    await api.wait_for("v1", "Pod", "small", is_ready, namespace)
    await api.delete("v1", "Pod", "small", namespace)
    await api.wait_gone("v1", "Pod", "small", namespace)


async def test_a_service_leads_to_a_pod_of_the_projects_image(node: Cluster, api: Api, namespace: str) -> None:
    """From the node, and from another pod: kube-proxy translates its address."""
    server = {"image": node.image, "command": ["python", "-c", _SERVER], "workingDir": "/tmp"}
    probe = {"httpGet": {"port": 8000}, "periodSeconds": 1}
    await api.apply(runs("server", {**server, "readinessProbe": probe}), namespace)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"}}
    spec = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]}
    address = (await api.apply({**service, "spec": spec}, namespace))["spec"]["clusterIP"]
    await api.wait_for("v1", "Pod", "server", is_ready, namespace, within_s=60)
    ask = f"import urllib.request; print(urllib.request.urlopen('http://{address}', timeout=20).status)"
    await api.apply(
        runs("client", {"image": node.image, "command": ["python", "-c", ask]}, restart="OnFailure"), namespace
    )
    log = await _log_at_end(node, api, "client", namespace)
    assert log == "200\n"


async def test_a_pod_reaches_the_database(node: Cluster, api: Api, namespace: str) -> None:
    """By address, with the password of its DSN, as the worker does."""
    ask = (
        "import asyncio, asyncpg, os\n"
        "async def main():\n"
        "    connection = await asyncpg.connect(os.environ['DSN'])\n"
        "    print(await connection.fetchval('SELECT 1'))\n"
        "asyncio.run(main())\n"
    )
    environment = [{"name": "DSN", "value": node.postgres_dsn}]
    client = {"image": node.image, "command": ["python", "-c", ask], "env": environment}
    await api.apply(runs("client", client, restart="OnFailure"), namespace)
    assert await _log_at_end(node, api, "client", namespace) == "1\n"


async def test_a_pod_reaches_the_api_server(node: Cluster, api: Api, namespace: str) -> None:
    """At the address in every pod's environment, with its service account's token, by a certificate that it can
    check.
    """
    ask = (
        "import os, ssl, urllib.request\n"
        "at = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "host = os.environ['KUBERNETES_SERVICE_HOST']\n"
        "sent = {'Authorization': 'Bearer ' + open(at + 'token').read()}\n"
        "request = urllib.request.Request(f'https://{host}/api', headers=sent)\n"
        "trust = ssl.create_default_context(cafile=at + 'ca.crt')\n"
        "print(urllib.request.urlopen(request, context=trust, timeout=20).status)\n"
    )
    client = {"image": node.image, "command": ["python", "-c", ask]}
    await api.apply(runs("client", client, restart="OnFailure", token=True), namespace)
    assert await _log_at_end(node, api, "client", namespace) == "200\n"


async def _log_at_end(node: Cluster, api: Api, name: str, namespace: str) -> str:
    """The log of a pod that succeeded."""
    await api.wait_for("v1", "Pod", name, in_phase("Succeeded"), namespace, within_s=60)
    return await node.kubectl("logs", "--namespace", namespace, name)
