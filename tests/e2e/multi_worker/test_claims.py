"""Two clusters on one database, with real processes: the second is refused by name, and the first notices nothing.

On Kubernetes the processes get just the environment that the operator renders for them; on the local platform they are
brought up by the command line.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from threadcluster_operator.api import parse_spec
from threadcluster_operator.render import RenderInput, migration_job
from threadcluster_operator.render.pod import worker_template

from shard_worker.contract_internal import DatabaseFault, MigrationFailure
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.polling import eventually
from tests.support.worker_processes import Workers, workers_on

SHARDS = 8
OWN = ("DSN_FILE", "SECRET_FILE", "HOST", "BIND", "PUBLIC_PORT", "MANAGEMENT_PORT", "NAME", "LOG_FORMAT")
"""The settings that say where a process of this test runs, not which cluster it is of."""


def rendered(namespace: str, uid: str, *, site: str = "kubernetes-1", **database: Any) -> RenderInput:
    """A ThreadCluster called ``chat``."""
    spec: dict[str, Any] = {
        "image": "threadcluster:1",
        "shards": SHARDS,
        "replicas": 2,
        "database": {"urlSecretKeyRef": {"name": "database"}, "tls": {"mode": "Disable"}, **database},
    }
    return RenderInput("chat", namespace, uid, parse_spec({"spec": spec}), 2, 0, "system", site=site)


def environment(template: dict[str, Any]) -> dict[str, str]:
    """The settings of a rendered pod's container, but for where it runs."""
    [container] = template["spec"]["containers"]
    named = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {name: value for name, value in named.items() if name.removeprefix("SHARD_WORKER_") not in OWN}


async def migrate(wanted: RenderInput, dsn: str, folder: Path) -> MigrationFailure | None:
    """Run the container of a cluster's Job; how it failed."""
    message, dsn_file = folder / f"{wanted.namespace}.termination", folder / f"{wanted.namespace}.dsn"
    message.unlink(missing_ok=True)
    dsn_file.write_text(dsn)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shard_worker.main", "migrate", "--termination-file", str(message)),
        env={
            **os.environ,
            **environment(migration_job(wanted)["spec"]["template"]),
            "SHARD_WORKER_DSN_FILE": str(dsn_file),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode == 0:
        return None
    assert message.exists(), output
    return msgspec.json.decode(message.read_bytes(), type=MigrationFailure)


async def start(workers: Workers, wanted: RenderInput, *names: str) -> None:
    """Start a cluster's workers."""
    for name in names:
        workers.add(name).settings = environment(worker_template(wanted))
    await workers.start(*names)
    await workers.spread(*names)
    await seen_by_all(workers, *names)


async def seen_by_all(workers: Workers, *names: str) -> None:
    """Wait until every worker knows that each shard's owner is the one of `Workers.spread`: a view may be a look old."""

    async def known() -> bool:
        answers = [await workers.ownership(of=name) for name in names]
        return all(
            shard["owner"] == names[shard["id"] % len(names)] for answer in answers for shard in answer["shards"]
        )

    await eventually(known, what="every worker knows every owner")


async def ownership(workers: Workers) -> Any:  # JSON
    """All that would show an interference: plan, incarnations, epochs."""
    found = await workers.ownership()
    return (
        found["planVersion"],
        [(each["name"], each["incarnation"], each["state"]) for each in found["workers"]],
        [(each["id"], each["owner"], each["epoch"]) for each in found["shards"]],
    )


SECONDS = [
    rendered("staging", "uid-2"),
    rendered("staging", "uid-2", clusterID="production.chat"),
    rendered("production", "uid-2", site="kubernetes-2"),
    rendered("production", "uid-1", site="kubernetes-2"),
]


@pytest.mark.parametrize("second", SECONDS, ids=["namespace", "same id", "kubernetes", "restored kubernetes"])
async def test_on_kubernetes_the_second_is_refused_by_name(second: RenderInput, empty: str, tmp_path: Path) -> None:
    """Its Job and, where the Job is got around, its workers; while the first serves, and when it is silent."""
    first = rendered("production", "uid-1")
    async with workers_on(empty, tmp_path / "first", shards=SHARDS) as workers:
        assert await migrate(first, empty, tmp_path) is None
        await start(workers, first, "chat-0", "chat-1")
        before = await ownership(workers)
        await expect_refused(second, empty, tmp_path)
        async with workers_on(empty, tmp_path / "second", shards=SHARDS) as others:
            others.add("chat-0").settings = environment(worker_template(second))
            with pytest.raises(AssertionError, match="production/chat, uid uid-1, in kubernetes-1"):
                await others.start("chat-0")
        assert await ownership(workers) == before
        await workers.served("chat-0", "chat-1")
        for worker in workers.by_name.values():
            worker.signal(15)
            assert await worker.ended() == 0
        await expect_refused(second, empty, tmp_path)  # at replicas: 0 it is silent
        await workers.start("chat-0", "chat-1")
        await workers.served("chat-0", "chat-1")


async def expect_refused(second: RenderInput, dsn: str, folder: Path) -> None:
    """Its Job fails, and says whose the database is."""
    failure = await migrate(second, dsn, folder)
    assert failure is not None
    assert failure.reason is DatabaseFault.CLAIMED_BY_OTHER
    assert "production/chat, uid uid-1, in kubernetes-1" in failure.message
    assert "spec.database.takeOver: uid-1" in failure.message


async def test_a_displaced_cluster_serves_nothing_and_plans_nothing(empty: str, tmp_path: Path) -> None:
    """It was named by the second one.  Its workers go on, and say whose the database is."""
    first, second = rendered("production", "uid-1"), rendered("staging", "uid-2", takeOver="uid-1")
    async with (
        workers_on(empty, tmp_path / "first", shards=SHARDS) as workers,
        workers_on(empty, tmp_path / "second", shards=SHARDS) as others,
    ):
        assert await migrate(first, empty, tmp_path) is None
        await start(workers, first, "chat-0", "chat-1")
        assert await migrate(second, empty, tmp_path) is None
        await start(others, second, "chat-0", "chat-1")
        owned = await ownership(others)

        async def refused() -> bool:
            answers = [await workers.ownership(of=name) for name in ("chat-0", "chat-1")]
            return all("staging/chat, uid uid-2" in (each["claimedByOther"] or "") for each in answers)

        await eventually(refused, what="both workers of the first say whose the database is")
        answer = await workers.ownership(of="chat-0")
        assert answer["serving"] == []
        status, text = await readiness(workers, "chat-0")
        assert status == 503
        assert "staging/chat, uid uid-2" in text
        targets = [{"shard": 0, "target": "chat-0", "reason": "mine"}]
        for method, path, body in (
            ("PUT", "targets", {"planVersion": answer["planVersion"], "hash": "h", "targets": targets}),
            ("POST", "workers/chat-0/drain", None),
        ):
            with pytest.raises(AssertionError, match=r"409 .*database-claimed-by-other"):
                await workers.ask(method, f"/internal/v1/{path}", body, of="chat-0")
        assert await ownership(others) == owned
        await others.served("chat-0", "chat-1")
        await expect_displaced_back(first, empty, tmp_path)
    await others.fsck()


async def readiness(workers: Workers, name: str) -> tuple[int, str]:
    """Status and text of a worker's ``/readyz``."""
    async with aiohttp.ClientSession() as session, session.get(f"{workers.by_name[name].management}/readyz") as answer:
        return answer.status, await answer.text()


async def expect_displaced_back(first: RenderInput, dsn: str, folder: Path) -> None:
    """The first does not come back by itself."""
    failure = await migrate(first, dsn, folder)
    assert failure is not None
    assert "spec.database.takeOver: uid-2" in failure.message


async def test_locally_the_second_data_directory_is_refused_by_name(empty: str, tmp_path: Path) -> None:
    """Both clusters have one name; the directory's id tells them apart, and displaces by option."""
    second = LocalCluster(tmp_path / "second", database_url=empty)
    async with local_cluster(tmp_path / "first", 1, database_url=empty) as first:
        owners = [(row["owner"], row["epoch"]) for row in await first.shards()]
        with pytest.raises(AssertionError) as refused:
            await second.up(1)
        holder = (first.data_dir / "id").read_text()
        assert f"--take-over {holder}" in str(refused.value)
        assert [(row["owner"], row["epoch"]) for row in await first.shards()] == owners
    with pytest.raises(AssertionError, match="which ended in order"):
        await second.up(1)
    await second.up(1, take_over=holder)
    await second.down()


async def test_kubernetes_and_local_do_not_share_a_database(empty: str, tmp_path: Path) -> None:
    """In either order, while the holder serves, though both clusters have one id; each displaces the other by name alone."""
    wanted = rendered("talk", "uid-1", clusterID="test")
    local = LocalCluster(tmp_path / "local", database_url=empty, shards=SHARDS)
    async with workers_on(empty, tmp_path / "kubernetes", shards=SHARDS) as workers:
        assert await migrate(wanted, empty, tmp_path) is None
        await start(workers, wanted, "chat-0")
        before = await ownership(workers)
        with pytest.raises(AssertionError, match="belongs to cluster 'test' \\(of talk/chat, uid uid-1"):
            await local.up(1)
        assert await ownership(workers) == before
        await local.up(1, take_over="uid-1")
        local_id = (local.data_dir / "id").read_text().strip()

        async def reported() -> bool:
            return f"uid {local_id}" in ((await workers.ownership(of="chat-0"))["claimedByOther"] or "")

        await eventually(reported, what="the displaced worker says whose the database is")
        owners = [(row["owner"], row["epoch"]) for row in await local.shards()]
        failure = await migrate(wanted, empty, tmp_path)
        assert failure is not None
        assert failure.reason is DatabaseFault.CLAIMED_BY_OTHER
        assert f"spec.database.takeOver: {local_id}" in failure.message
        assert [(row["owner"], row["epoch"]) for row in await local.shards()] == owners
        assert await migrate(rendered("talk", "uid-1", clusterID="test", takeOver=local_id), empty, tmp_path) is None
    await local.down()
