"""One control plane for all tests here, or the cluster that `$KUBECONFIG` names; a namespace for each test."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.e2e.cluster.build import kubernetes
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.kubeconfig import for_token
from tests.support.kube_api import Api, reach
from tests.support.paths import ROOT

CRD = ROOT / "crds" / "threadclusters.yaml"

KubeconfigFor = Callable[[str, str], Awaitable[Path]]


class Cluster(NamedTuple):
    """How the tests' cluster is reached."""

    kubeconfig: Path
    audit_log: Path | None
    """None on a cluster that was given: its log is not ours to read."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that has the CRD, for as long as the tests run."""
    given = os.environ.get("KUBECONFIG")
    if given:
        found = Cluster(Path(given), None)
        asyncio.run(apply_crd(found))
        yield found
        return
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"), kubernetes())
    try:
        plane.start()
        found = Cluster(plane.kubeconfig, plane.audit_log)
        asyncio.run(apply_crd(found))
        yield found
    finally:
        plane.stop()


@pytest.fixture
def own_control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane for one test alone, which may stop parts of it; it starts it itself."""
    plane = ControlPlane(tmp_path / "control-plane", kubernetes())
    try:
        yield plane
    finally:
        plane.stop()


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """The tests' own hand on the cluster; may do everything."""
    async with reach(cluster.kubeconfig, audit_log=cluster.audit_log) as reached:
        yield reached


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    """A fresh namespace, in which pods may be made; its deletion is only asked for."""
    name = f"test-{secrets.token_hex(4)}"
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, name)
    yield name
    await api.delete("v1", "Namespace", name)


@pytest.fixture
def kubeconfig_for(api: Api, tmp_path: Path) -> KubeconfigFor:
    """Make a kubeconfig file for a service account: by namespace and name."""

    async def make(namespace: str, service_account: str) -> Path:
        token = await api.token_of(namespace, service_account)
        path = tmp_path / f"{namespace}-{service_account}.kubeconfig"
        return for_token(path, api.kubeconfig, token, namespace=namespace)

    return make


async def apply_crd(cluster: Cluster) -> None:
    """Have the cluster know ThreadClusters."""
    async with reach(cluster.kubeconfig) as api:
        for document in yaml.safe_load_all(CRD.read_text()):
            await api.apply(document)
            await api.wait_for(
                document["apiVersion"],
                document["kind"],
                document["metadata"]["name"],
                lambda crd: any(
                    each["type"] == "Established" and each["status"] == "True"
                    for each in crd.get("status", {}).get("conditions") or ()
                ),
            )
