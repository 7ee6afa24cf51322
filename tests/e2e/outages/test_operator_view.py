"""The operator while a real worker's real Postgres is away: it reports the fault by its name, and takes no worker away."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.outages.faults import OUTAGES
from tests.e2e.outages.harness import Harness, harness_in
from tests.e2e.outages.operated import WORKER, OperatedCluster, operated

REPORTED_S: Final = 10.0
HEALED_S: Final = 10.0
_MACHINE_S: Final = 15.0
"""Time that a busy machine may add to a bound before a test fails."""


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A Postgres of its own, and the worker."""
    async with harness_in(tmp_path, WORKER) as made:
        yield made


async def outage(cluster: OperatedCluster, harness: Harness, name: str, reason: str) -> None:
    """One outage: reported with its reason, over when it is over."""
    async with OUTAGES[name](harness):
        reported_s = await cluster.until(
            lambda: cluster.condition("Ready") == ("False", reason), within_s=REPORTED_S + _MACHINE_S, what=reason
        )
        assert cluster.condition("Available") == ("False", reason)
    healed_s = await cluster.until(
        lambda: cluster.condition("Ready")[0] == "True", within_s=HEALED_S + _MACHINE_S, what=f"Ready after {name}"
    )
    assert cluster.condition("Available") == ("True", "AllShardsServed")
    print(f"{name:<28} {reason:<20} reported after {reported_s:4.1f} s, Ready {healed_s:4.1f} s after its end")


async def test_every_outage_is_named_and_ends(harness: Harness) -> None:
    """By the fault that the worker has, as it would be named by a migration."""
    async with operated(harness) as cluster:
        for name, reason in (
            ("frozen", "DatabaseUnreachable"),
            ("password rotated", "DatabaseAuthFailed"),
            ("certificate expired", "DatabaseTLSFailed"),
            ("stopped", "DatabaseUnreachable"),
            ("synchronous standby lost", "DatabaseUnreachable"),
        ):
            await outage(cluster, harness, name, reason)


async def test_no_worker_is_removed_or_restarted_while_postgres_is_frozen(harness: Harness) -> None:
    """An edit that needs a rollout and a shrink waits, says why, and goes on by itself."""
    async with operated(harness) as cluster:
        cluster.edit(replicas=2)
        await cluster.until(lambda: cluster.stateful_set["spec"]["replicas"] == 2, within_s=20, what="two replicas")
        async with OUTAGES["frozen"](harness):
            await cluster.until(
                lambda: cluster.condition("Ready") == ("False", "DatabaseUnreachable"), within_s=25, what="reported"
            )
            cluster.edit(replicas=1, image="threadcluster:2")
            await cluster.until(
                lambda: (
                    cluster.resource["status"]["observedGeneration"] == 3
                    and cluster.stateful_set["spec"]["template"]["spec"]["containers"][0]["image"] == "threadcluster:2"
                ),
                within_s=20,
                what="the template is applied, and held back",
            )
            for _ in range(20):
                await cluster.look()
                assert cluster.stateful_set["spec"]["replicas"] == 2
                assert cluster.partition == 2
        healed_s = await cluster.until(
            lambda: cluster.stateful_set["spec"]["replicas"] == 1 and cluster.partition == 0,
            within_s=HEALED_S + _MACHINE_S,
            what="shrink and rollout go on",
        )
        print(f"shrink and rollout went on {healed_s:.1f} s after Postgres")
