"""A cluster in memory behind a console, whose public port is a small server of the test."""

from collections.abc import Mapping, Sequence

from threadcluster_operator.console.backend import ClusterFacts, ConsoleBackend, Verb, VerbRefused, WorkerFacts

from shard_worker.contract_internal import HistoryEntry
from shard_worker.domain.ids import ShardId
from tests.fakes.worker_api import MemoryWorkers

MOVE = HistoryEntry(
    at="2026-05-01T12:00:00.123Z",
    shard=ShardId(1),
    epoch=2,
    source="demo-0",
    to="demo-1",
    kind="handoff",
    reason="demo-0 is draining",
    pause_ms=4.2,
)


class MemoryBackend(ConsoleBackend):
    """Two workers; counts what is asked of the cluster."""

    def __init__(self, workers: MemoryWorkers, url: str = "http://127.0.0.1:1") -> None:
        self.cluster = workers
        self.url = url
        self.answers: Mapping[str, object] = {}
        self.looks = 0
        self.histories = 0
        self.acts: list[Verb] = []

    async def look(self) -> None:
        """Ask the workers, as a supervisor's poller does."""
        self.answers = await self.cluster.answers()

    def facts(self) -> ClusterFacts:
        self.looks += 1
        return ClusterFacts(
            name="demo",
            ready=True,
            url=self.url,
            workers=[WorkerFacts(name=name, state="ready", pid=7, address=None) for name in ("demo-0", "demo-1")],
            answers=self.answers,  # type: ignore[arg-type]
            claimed_by_other=None,
            rebalance_mode="Auto",
        )

    def commands(self) -> Mapping[str, str]:
        return {"drain": "threadcluster drain {worker}"}

    async def history(self, limit: int) -> Sequence[HistoryEntry]:
        self.histories += 1
        return [MOVE][:limit]

    async def act(self, verb: Verb) -> str:
        self.acts.append(verb)
        if verb.worker == "nothing":
            raise VerbRefused("'nothing' has no process now")
        return "done so"

    def workers(self) -> MemoryWorkers:
        return self.cluster
