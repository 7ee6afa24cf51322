"""The operator as a process of its own, with workers in memory: for what is measured of a process.

``python -m tests.e2e.cluster.operator_process KUBECONFIG NAMESPACE PORT RESYNC_S SILENT``.  The workers of a cluster are there
as soon as the operator asks for them, one in each pod that has an address; they take a turn each time they are asked.  Those of
the first ``SILENT`` clusters, by the number at the end of their names, swallow every question.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping

from aiohttp import web
from threadcluster_operator.controller.election_thread import ElectionThread
from threadcluster_operator.controller.runtime import Operator, Options, application, identity, lease_of
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.kube.client import KubeAccess, connect

from shard_worker.contract_internal import OwnershipDigest, OwnershipResponse
from shard_worker.logs import configure_logging
from tests.fakes.worker_api import MemoryWorkers

SHARDS = 144
_TURNS = 4
"""How many turns they take at a time: in the steady state none changes anything."""


_TIME_OUT_S = 2.0
"""As long as a question to a silent worker lasts."""


class SilentWorkers(MemoryWorkers):
    """Workers whose pods swallow every packet."""

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        del worker
        await asyncio.sleep(_TIME_OUT_S)
        return None

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        await self.probe(worker)
        return None


class OperatorProcess:
    """The workers of all clusters."""

    def __init__(self, silent: int) -> None:
        self._silent = silent
        self._clusters: dict[Key, tuple[MemoryWorkers, set[str]]] = {}

    def reach(self, key: Key, addresses: Mapping[str, str], secret: str) -> MemoryWorkers:
        """Those of one cluster, as its pods are now."""
        del secret
        silent = int(key.name.rpartition("-")[2]) < self._silent
        made = SilentWorkers(SHARDS, remembers=1) if silent else MemoryWorkers(SHARDS, remembers=10)
        workers, known = self._clusters.setdefault(key, (made, set()))
        for name in addresses.keys() - known:
            workers.start(name)
        for name in known - addresses.keys():
            workers.die(name)
        known.clear()
        known.update(addresses)
        if not workers.settled:
            for _ in range(_TURNS):
                workers.turn()
        return workers


async def run(kubeconfig: str, namespace: str, port: int, resync_s: float, silent: int) -> None:
    """Until SIGTERM.  At SIGHUP the operator ends, and another one begins, which knows nothing; the workers stay."""
    loop, ended, replaced = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGHUP, replaced.set)
    town = OperatorProcess(silent)
    while not ended.is_set():
        replaced.clear()
        options = Options(namespace, namespace, identity(), port, KubeAccess(kubeconfig), resync_s)
        async with connect(options.access) as kube:
            election = ElectionThread(options.access, lease_of(options), options.identity)
            operator = Operator(kube, town.reach, options, election)
            runner = web.AppRunner(application(operator), access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            running = asyncio.create_task(operator.run(), name="operator")
            waiting = [asyncio.create_task(each.wait(), name="signal") for each in (ended, replaced)]
            await asyncio.wait((running, *waiting), return_when=asyncio.FIRST_COMPLETED)
            for task in (running, *waiting):
                task.cancel()
            found = await asyncio.gather(running, return_exceptions=True)
            await runner.cleanup()
        if not (ended.is_set() or replaced.is_set()):
            raise SystemExit(f"the operator ended by itself: {found[0]!r}")


if __name__ == "__main__":
    configure_logging("info", "json")
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
