"""Shards handed over between real workers under load: no request fails."""

from collections import defaultdict
from pathlib import Path

import asyncpg

from tests.e2e.moves.chatting import chatting
from tests.support.load.figures import Figures
from tests.support.worker_processes import Workers, workers_on


async def test_shards_move_to_and_fro_and_no_client_sees_an_error(dsn: str, tmp_path: Path) -> None:
    """Every shard changes its owner five times: no answer but a success, and every move is a handoff."""
    async with workers_on(dsn, tmp_path, "a", "b") as workers:
        figures, database = Figures(), await asyncpg.connect(dsn)
        async with chatting(workers, figures):
            # The first of the two workers may have handed some shards over to the other already.
            before, began = await _counted(workers), await database.fetchval("SELECT clock_timestamp()")
            for round_ in range(5):
                names = ("a", "b") if round_ % 2 else ("b", "a")
                await workers.spread(*names)
        after = await _counted(workers)
        for name in ('threadcluster_handoffs_total{outcome="given"}', "threadcluster_handoff_pause_seconds_count"):
            assert after[name] - before[name] == 5 * workers.shards, name
        assert after["threadcluster_shards_serving"] == workers.shards
        assert after["threadcluster_takeovers_total"] == 0.0
        for row in figures.summaries():
            print(row)
        assert figures.balance() is None
        assert figures.total("refused") == figures.total("unknown") == figures.not_sent == 0
        moves = await database.fetch("SELECT kind, pause_ms FROM shard_epoch WHERE claimed_at > $1", began)
        await database.close()
        print(sorted(row["pause_ms"] or -1 for row in moves if row["kind"] == "handoff"))
        assert sum(row["kind"] == "handoff" for row in moves) == 5 * workers.shards


async def _counted(workers: Workers) -> dict[str, float]:
    """Sums of the two workers' metrics, by the name and labels of each sample."""
    total: dict[str, float] = defaultdict(float)
    for name in ("a", "b"):
        for sample, value in (await workers.metrics(of=name)).items():
            total[sample] += value
    return total
