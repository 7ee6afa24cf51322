"""The comparison of one table with partitions, too small to mean anything: it must work, and judge by its bar."""

from threadcluster_operator.local.postgres import EmbeddedPostgres

from tests.benchmarks.partitioning import measure


async def test_both_forms_of_the_journal_are_measured(postgres: EmbeddedPostgres) -> None:
    """The worker's own append and load run on both; what a batch locks is counted."""
    progress: list[str] = []
    figures = await measure(postgres.dsn_of("postgres"), events=7_200, rounds=3, say=progress.append)
    ratios = figures["ratios"]
    assert isinstance(ratios, dict)
    assert len(ratios) == 5
    assert all(ratio["time"] > 0 for ratio in ratios.values())
    whole, parts = figures["one table"], figures["partitions"]
    assert isinstance(whole, dict)
    assert isinstance(parts, dict)
    assert whole["locks"] < parts["locks"]
    append, load = ratios["append, 28 shards a batch"]["time"], ratios["load, 50 threads of 50 shards"]["time"]
    assert figures["verdict"] == ("partitions" if max(append, load) <= 1.05 else "one table")
    assert progress[-1].endswith(str(figures["verdict"]))
