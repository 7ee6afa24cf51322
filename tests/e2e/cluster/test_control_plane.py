"""The control plane of the tests is a real one: it makes pods, refuses who may not, and notes who asked for what."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.cluster.build import kubectl
from tests.e2e.cluster.conftest import KubeconfigFor
from tests.e2e.cluster.control_plane import ControlPlane, read_audit
from tests.e2e.cluster.program import Program, ProgramFailed
from tests.support.kube_api import Api, Refused, reach

pytestmark = pytest.mark.cluster

POD = {"containers": [{"name": "main", "image": "nothing"}]}
STATEFUL_SET = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "three"},
    "spec": {
        "replicas": 3,
        "serviceName": "three",
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": "three"}},
        "template": {"metadata": {"labels": {"app": "three"}}, "spec": POD},
    },
}


async def test_a_stateful_set_gets_its_pods(api: Api, namespace: str) -> None:
    """The controller manager works: three pods, which no kubelet runs."""
    await api.apply(STATEFUL_SET, namespace)
    for ordinal in range(3):
        await api.wait_for("v1", "Pod", f"three-{ordinal}", lambda pod: pod["status"]["phase"] == "Pending", namespace)


async def test_the_scheduler_says_why_a_pod_waits(api: Api, namespace: str) -> None:
    """The scheduler works: without a node it reports the pod as unschedulable."""
    await api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely"}, "spec": POD}, namespace)
    waits = await api.wait_for("v1", "Pod", "lonely", lambda pod: pod["status"].get("conditions"), namespace)
    assert [(each["type"], each["reason"]) for each in waits["status"]["conditions"]] == [
        ("PodScheduled", "Unschedulable")
    ]


async def test_a_service_account_may_do_what_its_role_says_and_the_audit_log_has_it(
    api: Api, namespace: str, kubeconfig_for: KubeconfigFor
) -> None:
    """RBAC is real, and every request of one user can be read afterwards."""
    for manifest in _reader_of_config_maps(namespace):
        await api.apply(manifest, namespace)
    async with reach(await kubeconfig_for(namespace, "reader")) as reader:
        await reader.list("v1", "ConfigMap", namespace)
        with pytest.raises(Refused, match="forbidden") as refusal:
            await reader.list("v1", "Secret", namespace)
        assert refusal.value.status == 403
    if api.audit_log is not None:
        noted = read_audit(api.audit_log, user=f"system:serviceaccount:{namespace}:reader")
        asked = {
            (entry["objectRef"]["resource"], entry["responseStatus"]["code"]) for entry in noted if "objectRef" in entry
        }
        assert asked == {("configmaps", 200), ("secrets", 403)}


async def test_a_field_that_does_not_exist_is_refused(api: Api, namespace: str) -> None:
    """A typo in a test's manifest is an error, not silence."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "typo"}, "spec": {**POD, "nodeNam": "x"}}
    with pytest.raises(Refused, match="nodeNam"):
        await api.apply(pod, namespace)


async def test_the_api_server_can_go_and_come_back(own_control_plane: ControlPlane) -> None:
    """The stored objects are there again, and no other program had to restart."""
    own_control_plane.start(scheduler=False)
    async with reach(own_control_plane.kubeconfig) as api:
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
        # One that loses its server before all its controllers have begun ends.
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, "kept", within_s=60)
        own_control_plane.api_server.kill()
        with pytest.raises(OSError, match="Connect call failed"):
            await api.get("v1", "Namespace", "kept")
        own_control_plane.start_api_server()
        assert await api.get("v1", "Namespace", "kept")
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}})
        # Controllers that lost their server come back in their own time: they back off for half a minute and more.
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, "new", within_s=120)
    assert own_control_plane.controller_manager.pid is not None


async def test_kubectl_reads_the_same_file(api: Api, namespace: str) -> None:
    """The real kubectl works with what the tests are given."""
    asked = await asyncio.create_subprocess_exec(
        *(kubectl(), f"--kubeconfig={api.kubeconfig}", "get", "namespace", namespace, "-o", "name"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asked.communicate()
    assert output.decode() == f"namespace/{namespace}\n"


def test_a_program_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    """The caller does not wait for the deadline."""
    program = Program("false", ["/bin/sh", "-c", "echo why it failed; exit 1"], logs=tmp_path)
    with pytest.raises(ProgramFailed, match=r"ended by itself(.|\n)*why it failed"):
        program.start(lambda: False)


def test_a_program_that_is_late_is_reported_with_its_log(tmp_path: Path) -> None:
    """A deadline is named, and the program can still be ended."""
    program = Program("sleep", ["/bin/sleep", "60"], logs=tmp_path)
    with pytest.raises(ProgramFailed, match=r"not ready within 0 s"):
        program.start(lambda: False, within_s=0.0)
    program.stop()
    assert program.pid is None


def _reader_of_config_maps(namespace: str) -> list[dict[str, object]]:
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
        },
    ]
