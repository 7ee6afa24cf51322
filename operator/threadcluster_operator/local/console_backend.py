"""The local cluster behind its console: what the supervisor knows, and what it can do."""

import shlex
from collections.abc import Mapping, Sequence

from shard_worker.contract_internal import HistoryEntry
from threadcluster_operator.console.backend import (
    ClusterFacts,
    ConsoleBackend,
    Verb,
    VerbName,
    VerbRefused,
    WorkerFacts,
)
from threadcluster_operator.console.verbs import command_lines, ordered, record
from threadcluster_operator.local.data_dir import ROOT
from threadcluster_operator.local.supervisor import Supervisor
from threadcluster_operator.planning.rebalance import MovesRefused
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient


class SupervisorBackend(ConsoleBackend):
    """The cluster of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        path = supervisor.data_dir.path
        here = path.parent == ROOT.absolute()
        flags = f" --name {shlex.quote(path.name)}" if here else f" --data-dir {shlex.quote(str(path))}"
        self._commands = command_lines(flags, "kill -9 {pid}")

    def facts(self) -> ClusterFacts:
        """See `ConsoleBackend`."""
        supervisor = self._supervisor
        status = supervisor.last_status()
        return ClusterFacts(
            name=status["name"],
            ready=status["ready"],
            url=status["url"],
            workers=[
                WorkerFacts(name=each["name"], state=each["state"], pid=each["pid"], address=each["address"])
                for each in status["workers"]
            ],
            answers=supervisor.answers(),
            claimed_by_other=status["claimedByOther"],
            rebalance_mode=supervisor.resources.cluster.spec.rebalance.mode,
        )

    def commands(self) -> Mapping[str, str]:
        """See `ConsoleBackend`."""
        return self._commands

    async def history(self, limit: int) -> Sequence[HistoryEntry]:
        """See `ConsoleBackend`."""
        return await self.workers().history(limit, None)

    async def act(self, verb: Verb) -> str:
        """See `ConsoleBackend`."""
        match verb.verb:
            case VerbName.KILL:
                pid = self._supervisor.kill_worker(verb.worker)
                if pid is None:
                    raise VerbRefused(f"{verb.worker!r} has no process now")
                return f"{verb.worker} (process {pid}) was killed; it is started again"
            case VerbName.REBALANCE:
                self.workers()  # raises before there are any
                try:
                    moves = (await self._supervisor.rebalance(None))["moves"]
                except MovesRefused as error:
                    raise VerbRefused(str(error)) from error
                return ordered(moves)
        return await record(self.workers(), verb)

    def workers(self) -> WorkerApiClient:
        """See `ConsoleBackend`."""
        found = self._supervisor.client()
        if found is None:
            raise NoWorkerAvailable("no worker runs yet")
        return found
