"""A watch whose connection has fallen silent: no side closes it, and nothing comes any more."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.e2e.cluster.harness import harness_on, is_ready
from tests.e2e.cluster.kubeconfig import write_kubeconfig
from tests.support.kube_api import Api
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.cluster, pytest.mark.soak]

NOTICED_S = 90.0


def by_way_of(path: Path, given: Path, port: int) -> Path:
    """A kubeconfig file for the same user and server, through a proxy."""
    config = yaml.safe_load(given.read_text())
    [cluster], [user] = config["clusters"], config["users"]
    return write_kubeconfig(
        path,
        server=f"https://127.0.0.1:{port}",
        authority=cluster["cluster"]["certificate-authority-data"],
        token=user["user"]["token"],
    )


async def test_a_silent_watch_is_replaced(api: Api, namespace: str, tmp_path: Path) -> None:
    """Every connection of the operator falls silent, new ones work: an edit is acted on all the same, within 90 s."""
    if api.audit_log is None:
        pytest.fail("this goes through a proxy to a control plane of the tests: unset KUBECONFIG")
    where = urlsplit(yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    assert where.hostname is not None
    assert where.port is not None
    async with TcpProxy(where.hostname, where.port) as proxy:
        kubeconfig = by_way_of(tmp_path / "proxied.kubeconfig", api.kubeconfig, proxy.port)
        async with harness_on(api, namespace, kubeconfig=kubeconfig) as harness:
            await harness.make("chat")
            await harness.until("chat", is_ready)
            proxy.blackhole()
            began = time.monotonic()
            await harness.edit("chat", {"replicas": 3})
            await harness.until("chat", is_ready, within_s=NOTICED_S)
            print(f"\nReady {time.monotonic() - began:.1f} s after an edit that no watch delivered")
