"""An API server that throttles or fails for half a minute: the reason is named, and everything goes on soon after."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster.api_proxy import ApiProxy, api_proxy
from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.support.kube_api import Api

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("KUBECONFIG" in os.environ, reason="the proxy is for the tests' own control plane"),
]

NAMED_S: Final = 10.0
HEALED_S: Final = 10.0
FAULT_S: Final = 30.0


@pytest.fixture
async def proxy(api: Api, tmp_path: Path) -> AsyncIterator[ApiProxy]:
    """A proxy between the operator and the API server."""
    async with api_proxy(api.kubeconfig, tmp_path) as made:
        yield made


@pytest.fixture
async def harness(api: Api, namespace: str, proxy: ApiProxy) -> AsyncIterator[Harness]:
    """An operator behind the proxy, and a fake kubelet before the API server, in a namespace."""
    async with harness_on(api, namespace, kubeconfig=proxy.kubeconfig) as made:
        yield made


@pytest.mark.parametrize(("number", "reason"), [(429, "ApiThrottled"), (500, "ApiFailing")])
async def test_one_kind_is_refused_for_a_while(harness: Harness, proxy: ApiProxy, number: int, reason: str) -> None:
    """The status names it, the workers are scaled meanwhile, and the object is as wanted soon after."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    proxy.faulty = lambda method, path: number if "/services" in path and method in ("POST", "PATCH") else None
    ends = time.monotonic() + FAULT_S
    await harness.edit("chat", {"replicas": 3, "gateway": {"service": {"port": 81}}})
    await harness.until("chat", stalled_by(reason), within_s=NAMED_S)
    await harness.until("chat", lambda it: it["status"]["readyReplicas"] == 3)
    await harness.until("chat", lambda it: condition(it, "Available")["status"] == "True")
    await asyncio.sleep(ends - time.monotonic())
    proxy.faulty = lambda method, path: None
    await harness.until("chat", is_ready, within_s=HEALED_S)


async def test_every_write_is_refused_for_a_while(harness: Harness, proxy: ApiProxy) -> None:
    """Not even a status can be written then; an edit that was made meanwhile is acted on soon after."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    proxy.faulty = lambda method, path: 500 if method != "GET" and "/leases" not in path else None
    ends = time.monotonic() + FAULT_S
    await harness.edit("chat", {"replicas": 3})
    await asyncio.sleep(ends - time.monotonic())
    proxy.faulty = lambda method, path: None
    await harness.until("chat", is_ready, within_s=HEALED_S)
