"""One node for all tests here, with a Postgres beside it; or the cluster that `$KUBECONFIG` names, with what it has."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster.build import CONTROL_PLANE, NODE, Missing, kubernetes
from tests.e2e.node import image
from tests.e2e.node import node as real
from tests.e2e.node.postgres import NodePostgres
from tests.support.kube_api import Api, reach

IMAGE_VARIABLE: Final = "THREADCLUSTER_TEST_IMAGE"
DSN_VARIABLE: Final = "THREADCLUSTER_TEST_DATABASE_URL"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster whose nodes run containers."""

    kubeconfig: Path
    image: str
    """The project's image, as the nodes know it."""
    postgres_dsn: str
    """A database for a ThreadCluster, as pods reach it."""
    own: real.Node | None
    """Where the node is ours: its programs can be stopped, and images imported."""
    postgres: NodePostgres | None
    """Where the database is ours: more of them can be made."""

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Output of the real kubectl.  Raises `KubectlFailed`."""
        return await real.run_kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def import_image(self, tar: Path) -> None:
        """Give the node an image; on a cluster that was given that is its owner's doing."""
        assert self.own is not None, "this cluster was given: its images are its owner's doing"
        self.own.import_image(tar)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with the project's image, and a Postgres."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield _given(Path(given))
        return
    folder = tmp_path_factory.mktemp("node")
    own = real.Node(folder, kubernetes((*CONTROL_PLANE, *NODE)))
    postgres = NodePostgres(folder / "postgres", real.ADDRESS, real.POD_RANGE)
    try:
        own.start()
        own.import_image(image.built())
        postgres.start()
        yield Cluster(
            kubeconfig=own.kubeconfig,
            image=image.NAME,
            postgres_dsn=postgres.dsn_of("threadcluster"),
            own=own,
            postgres=postgres,
        )
    finally:
        own.stop()
        postgres.stop()


@pytest.fixture
async def api(node: Cluster) -> AsyncIterator[Api]:
    """The tests' own hand on the cluster; may do everything."""
    audit_log = node.own.control_plane.audit_log if node.own is not None else None
    async with reach(node.kubeconfig, audit_log=audit_log) as reached:
        yield reached


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    """A fresh namespace, in which pods may be made; its deletion is only asked for."""
    name = f"test-{secrets.token_hex(4)}"
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, name)
    yield name
    await api.delete("v1", "Namespace", name)


def _given(kubeconfig: Path) -> Cluster:
    found = {name: os.environ.get(name, "") for name in (IMAGE_VARIABLE, DSN_VARIABLE)}
    lacking = [f"${name}" for name, value in found.items() if not value]
    if lacking:
        raise Missing(
            f"$KUBECONFIG names a cluster: say with {' and '.join(lacking)} which image its nodes can pull, and which "
            "database its pods reach"
        )
    return Cluster(
        kubeconfig=kubeconfig, image=found[IMAGE_VARIABLE], postgres_dsn=found[DSN_VARIABLE], own=None, postgres=None
    )
