"""The operator's knowledge heals by itself: late and lost kinds, hostile objects, labels, and an API server from a backup."""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from threadcluster_operator.controller.runtime import Operator

from tests.e2e.cluster.conftest import CRD, Cluster, KubeconfigFor, apply_crd
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.harness import (
    KIND,
    SERVICE_MONITORS,
    VERSION,
    condition,
    harness_on,
    is_ready,
    operator_on,
    page,
    thread_cluster,
)
from tests.fakes.worker_api import MemoryWorkers
from tests.support.kube_api import Api, Object, Refused, reach
from tests.support.pod_specs import nested_affinity
from tests.support.polling import eventually

pytestmark = pytest.mark.cluster

HEALED_S = 10.0
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "threadclusters.threadcluster.io")
NAMESPACE = "chats"


@asynccontextmanager
async def own_cluster(plane: ControlPlane, *, crd: bool = True) -> AsyncIterator[Api]:
    """A control plane for one test, with a namespace."""
    plane.start()
    if crd:
        await apply_crd(Cluster(plane.kubeconfig, plane.audit_log))
    async with reach(plane.kubeconfig, audit_log=plane.audit_log) as api:
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, NAMESPACE)
        yield api


async def first_child(api: Api, name: str) -> float:
    """Make a ThreadCluster; seconds until its first child is there."""

    async def made() -> bool:
        with contextlib.suppress(Refused):  # the API server names a new kind some moments after it has taken it
            await api.create(thread_cluster(name), NAMESPACE)
            return True
        return False

    await eventually(made, within_s=30)
    began = time.monotonic()
    await api.wait_for("v1", "Secret", f"{name}-internal", lambda _: True, NAMESPACE, within_s=HEALED_S)
    return time.monotonic() - began


async def test_an_operator_before_its_kind_waits_and_begins_with_it(own_control_plane: ControlPlane) -> None:
    """As GitOps may order it; the same when the kind is deleted and comes again.  Waiting for it is no fault."""
    async with own_cluster(own_control_plane, crd=False) as api, operator_on(api, NAMESPACE, {}) as operator:

        async def waits() -> bool:
            return await page(operator, "/readyz") == (200, "leading, waits for threadclusters\n")

        await eventually(waits, within_s=30)
        assert await page(operator, "/livez") == (200, "ok\n")
        found = Cluster(own_control_plane.kubeconfig, own_control_plane.audit_log)
        await apply_crd(found)
        took = [await first_child(api, "chat")]
        await api.delete(*DEFINITION)
        await api.wait_gone(*DEFINITION)
        await eventually(waits, within_s=30)
        await apply_crd(found)
        took.append(await first_child(api, "again"))
        assert await page(operator, "/livez") == (200, "ok\n")
        print(f"\nfirst child after the kind came: {took[0]:.1f} s; after it came again: {took[1]:.1f} s")


async def test_a_kind_that_is_installed_later_is_noticed(own_control_plane: ControlPlane) -> None:
    """ServiceMonitors: a cluster that was Ready without gets one."""
    async with own_cluster(own_control_plane) as api, operator_on(api, NAMESPACE, {}):
        await first_child(api, "chat")
        began = time.monotonic()
        await api.apply(SERVICE_MONITORS)
        place = ("monitoring.coreos.com/v1", "ServiceMonitor", "chat")

        async def there() -> bool:
            with contextlib.suppress(Exception):  # the kind is not discovered yet
                return await api.find(*place, NAMESPACE) is not None
            return False

        await eventually(there, within_s=30)
        print(f"\nits ServiceMonitor came {time.monotonic() - began:.1f} s after the kind")


def open_schema(definition: Object) -> Object:
    """The CustomResourceDefinition as it was when affinity was Kubernetes' own business."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    pod_spec = schema["properties"]["spec"]["properties"]["podTemplate"]["properties"]["spec"]["properties"]
    pod_spec["affinity"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return definition


async def test_a_hostile_object_is_its_own_trouble_alone(own_control_plane: ControlPlane) -> None:
    """Nested 1,200 deep, stored while an older schema is installed: before the operator begins, and while it runs."""
    async with own_cluster(own_control_plane, crd=False) as api:
        await api.apply(open_schema(yaml.safe_load(CRD.read_text())))
        await api.wait_for(*DEFINITION, lambda crd: condition(crd, "Established").get("status") == "True")
        path = f"/apis/{VERSION}/namespaces/{NAMESPACE}/threadclusters"

        async def served() -> bool:
            with contextlib.suppress(Refused):  # the API server serves a new kind some moments after it says so
                await api.request("GET", path)
                return True
            return False

        await eventually(served, within_s=30)

        async def store(name: str) -> None:
            body, head = nested_affinity(thread_cluster(name), 1_200), {"Content-Type": "application/json"}
            async with api._session.post(f"{api._server}{path}", data=body, headers=head) as answer:
                assert answer.status == 201, await answer.text()

        async def reported(name: str) -> str:
            """The API server's text: no JSON decoder of Python reads the object."""
            async with api._session.get(f"{api._server}{path}/{name}") as answer:
                return await answer.text()

        await store("hostile")
        async with harness_on(api, NAMESPACE) as harness:
            await harness.make("chat")
            await harness.until("chat", is_ready)
            await store("later")
            for name in ("hostile", "later"):

                async def stalled(name: str = name) -> bool:
                    text = await reported(name)
                    return "SpecInvalid" in text and "nested deeper than any field" in text

                await eventually(stalled, within_s=HEALED_S)
            began = time.monotonic()
            generation = await harness.edit("chat", {"replicas": 3})
            await harness.until("chat", lambda found: found["status"].get("observedGeneration") == generation)
            print(f"\nan edit of another cluster was acted on after {time.monotonic() - began:.2f} s")
            await harness.until("chat", is_ready)
        for name in ("hostile", "later"):
            async with api._session.delete(f"{api._server}{path}/{name}") as answer:
                assert answer.status == 200


async def test_a_worker_whose_label_was_taken_off_and_put_on_again_is_seen(api: Api, namespace: str) -> None:
    """A watch by labels shows it as a deletion and a creation of the same uid."""
    async with harness_on(api, namespace) as harness:
        await harness.make("chat")
        await harness.until("chat", is_ready)
        label = "app.kubernetes.io/instance"
        for value in (None, "chat"):
            await api.patch("v1", "Pod", "chat-1", {"metadata": {"labels": {label: value}}}, namespace)
            seen = 1 if value is None else 2
            await harness.until("chat", lambda found, seen=seen: found["status"]["replicas"] == seen)  # type: ignore[misc]  # bound
        await harness.until("chat", is_ready)


async def test_a_pod_with_a_workers_labels_is_no_worker(api: Api, namespace: str) -> None:
    """It is not counted, does not hold up a rollout, and its image is its own trouble."""
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "stranger",
            "labels": {
                "app.kubernetes.io/name": "threadcluster",
                "app.kubernetes.io/instance": "chat",
                "app.kubernetes.io/component": "worker",
            },
        },
        "spec": {"containers": [{"name": "worker", "image": "nowhere/at-all:1"}], "nodeName": "nowhere"},
    }
    async with harness_on(api, namespace) as harness:
        await harness.make("chat")
        await harness.until("chat", is_ready)
        await api.create(stranger, namespace)
        await harness.edit("chat", {"image": "threadcluster:2"})
        found = await harness.until("chat", is_ready, within_s=60)
        assert [each["name"] for each in found["status"]["workers"]] == ["chat-0", "chat-1"]
        assert found["status"]["replicas"] == found["status"]["updatedReplicas"] == 2


async def test_an_api_server_that_was_restored_from_a_backup_is_believed(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    """Versions go back; what is older than all that the operator has seen is the present now."""
    plane = own_control_plane
    async with own_cluster(plane) as api, harness_on(api, NAMESPACE) as harness:
        await harness.make("chat")
        await harness.until("chat", is_ready)
        plane.api_server.stop()
        plane.etcd.stop()
        shutil.copytree(plane.folder / "etcd", tmp_path / "backup")
        await started(plane)
        await harness.edit("chat", {"replicas": 3})
        await harness.until("chat", is_ready, within_s=90)
        for number in range(300):  # so that the versions of now come long after those of the backup
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"filler-{number}"}}
            await api.create(body, NAMESPACE)
        plane.api_server.stop()
        plane.etcd.stop()
        shutil.rmtree(plane.folder / "etcd")
        shutil.copytree(tmp_path / "backup", plane.folder / "etcd")
        began = time.monotonic()
        await started(plane)
        back = await harness.look("chat")
        assert back["spec"]["replicas"] == 2
        generation = await harness.edit("chat", {"gateway": {"service": {"port": 8080}}})
        await harness.until("chat", lambda found: found["status"].get("observedGeneration") == generation, within_s=60)
        await api.wait_for(
            "v1", "Service", "chat", lambda found: found["spec"]["ports"][0]["port"] == 8080, NAMESPACE, within_s=60
        )
        print(
            f"\nan edit was acted on {time.monotonic() - began:.1f} s after the API server was started from the backup"
        )


async def started(plane: ControlPlane) -> None:
    """Etcd and the API server again, off the test's loop, in which the operator runs."""
    await asyncio.to_thread(plane.start, controller_manager=False, scheduler=False)


async def test_a_replica_that_may_not_take_the_lease_does_not_look_fit(
    api: Api, namespace: str, kubeconfig_for: KubeconfigFor
) -> None:
    """Whether another holds it or none: readiness names the refusal; the process is alive all the same."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "powerless"}}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reads-leases"},
        "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reads-leases"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads-leases"},
        "subjects": [{"kind": "ServiceAccount", "name": "powerless", "namespace": namespace}],
    }
    for each in (account, role, binding):
        await api.apply(each, namespace)
    kubeconfig = await kubeconfig_for(namespace, "powerless")

    def unfit(operator: Operator) -> Callable[[], Any]:
        async def look() -> bool:
            status, text = await page(operator, "/readyz")
            return status == 503 and "forbidden" in text

        return look

    async with operator_on(api, namespace, {}, kubeconfig=kubeconfig) as operator:
        await eventually(unfit(operator), within_s=40)
        assert await page(operator, "/livez") == (200, "ok\n")
    async with operator_on(api, namespace, {}) as leader:
        await asyncio.wait_for(leader.leadership.leading.wait(), 30)
        async with operator_on(api, namespace, {}, kubeconfig=kubeconfig) as follower:
            await eventually(unfit(follower), within_s=40)
            assert (await page(leader, "/readyz"))[0] == 200


class ConnectProxy:
    """An HTTP proxy that leads every name to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: `CONNECT name:port`, then bytes in both directions."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        target, out = await asyncio.open_connection(*self._target)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while chunk := await source.read(65536):
                    sink.write(chunk)
                    await sink.drain()
            sink.close()

        await asyncio.gather(carry(reader, out), carry(target, writer))


async def test_a_proxy_and_a_name_of_the_server_hold_for_the_watches_too(
    api: Api, namespace: str, tmp_path: Path
) -> None:
    """An address that only the proxy knows, and that the certificate does not name."""
    if api.audit_log is None:
        pytest.fail("this goes through a proxy to a control plane of the tests: unset KUBECONFIG")
    config = yaml.safe_load(api.kubeconfig.read_text())
    where = urlsplit(config["clusters"][0]["cluster"]["server"])
    assert where.hostname is not None
    assert where.port is not None
    proxy = ConnectProxy(where.hostname, where.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    config["clusters"][0]["cluster"] |= {
        "server": "https://api.nowhere.invalid:6443",
        "tls-server-name": "kubernetes.default",
        "proxy-url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
    }
    kubeconfig = tmp_path / "proxied.kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    workers: dict[tuple[str, str], MemoryWorkers] = {}
    async with operator_on(api, namespace, workers, kubeconfig=kubeconfig):
        await api.create(thread_cluster("chat"), namespace)
        await api.wait_for(VERSION, KIND, "chat", lambda found: condition(found, "Ready"), namespace)
        await api.patch(VERSION, KIND, "chat", {"spec": {"networkPolicy": {"mode": "Off"}}}, namespace)
        await api.wait_gone("networking.k8s.io/v1", "NetworkPolicy", "chat", namespace, within_s=HEALED_S)
    assert set(proxy.asked) == {"api.nowhere.invalid:6443"}
    server.close()
