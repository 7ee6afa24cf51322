"""A namespace in which faults happen: the ThreadCluster `STUCK` that they are about, and `WELL` beside it."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from threadcluster_operator.workers.protocol import PolledWorkers

from shard_worker.contract_internal import OwnershipDigest, OwnershipResponse
from tests.e2e.cluster.admission_webhook import Webhook, webhook
from tests.e2e.cluster.api_proxy import ApiProxy
from tests.e2e.cluster.harness import KIND, VERSION, Harness
from tests.fakes.worker_api import MemoryWorkers
from tests.support.kube_api import Api

STUCK: Final = "stuck"
WELL: Final = "well"

_TIME_OUT_S: Final = 2.0


class Workers(MemoryWorkers):
    """Workers that can swallow every question, or let another answer in their place."""

    def __init__(self, every_s: float) -> None:
        super().__init__(16)
        self.swallow = False
        self.instead: PolledWorkers | None = None
        self._every_s = every_s

    async def run(self, every_s: float = 0.0) -> None:
        """Take turns rarely: they share the loop of the operator that is measured."""
        await super().run(self._every_s or every_s)

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        if self.swallow:
            await asyncio.sleep(_TIME_OUT_S)
            return None
        return await (super().probe(worker) if self.instead is None else self.instead.probe(worker))

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        if self.swallow or self.instead is not None:
            return None
        return await super().ownership_of(worker)


@dataclass(slots=True, kw_only=True)
class Site:
    """One namespace with its ThreadClusters, and what its faults keep."""

    harness: Harness
    proxy: ApiProxy
    nodes: list[str]
    """Nodes that only this site's stuck cluster may use; empty where no node is to be lost."""
    hooks: dict[str, Webhook] = field(default_factory=dict)
    undo: AsyncExitStack
    workers: dict[str, Workers] = field(default_factory=dict)

    @property
    def api(self) -> Api:
        """Full access."""
        return self.harness.api

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.harness.namespace

    async def make(self, name: str, *, every_s: float = 0.2, **spec: Any) -> None:  # as YAML would have it
        """A ThreadCluster, as `Harness.make`."""
        self.workers[name] = Workers(every_s)
        await self.harness.make(name, self.workers[name], **spec)

    async def hook(self, name: str) -> Webhook:
        """A webhook for as long as the site is there."""
        made = await self.undo.enter_async_context(webhook(self.api, f"{name}-{self.namespace}"))
        self.hooks[name] = made
        return made

    async def text(self, name: str) -> str:
        """The API server's text of a ThreadCluster: no JSON decoder of Python reads a hostile one."""
        path = await self.api.path(VERSION, KIND, name, self.namespace)
        async with self.api._session.get(f"{self.api._server}{path}") as answer:
            return await answer.text() if answer.status == 200 else ""
