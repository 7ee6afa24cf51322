"""Faults that only the operator can see, on real parts: each is reported by its name, and heals once it is mended.

All faults are there at once, each of a ThreadCluster in a namespace of its own, while a client chats with one that is
well.  When the cluster itself reported a fault is read from what Kubernetes wrote down.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from shard_worker.database.migration import migrate
from tests.e2e.cluster.harness import KIND, VERSION, condition, is_ready
from tests.e2e.node import node as real
from tests.e2e.node.chat import Chat, cluster, install, printed_on_failure, secret
from tests.e2e.node.conftest import Cluster
from tests.e2e.node.pooler import Pooler
from tests.e2e.node.postgres import NodePostgres
from tests.support.kube_api import Api, Object
from tests.support.tls_proxy import TlsFront

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

REPORTED_S: Final = 10.0
HEALED_S: Final = 240.0
CLOSED_PORT: Final = 9
NAMES: Final = (
    *("secret", "host", "password", "certificate", "pooler", "other", "count", "schema", "tables"),
    *("image", "quota", "foreign", "place", "crash"),
)
"""Of the faults."""

Report = Callable[[Api, str], Awaitable[str | None]]
"""When the cluster itself reported the fault, as it wrote it down; None: not yet."""


class Fault(NamedTuple):
    """One fault: the cluster that has it, its report, and its remedy."""

    reason: str
    remedy: str
    """A word of what the message says to do."""
    report: Report
    spec: Object
    dsn: str | None
    """Data of the Secret; None: there is no Secret."""
    objects: tuple[Object, ...] = ()
    """Objects that exist before the cluster."""
    mends: Callable[[Api, str], Awaitable[object]] | None = None
    stalls: bool = True
    """Whether it is a failure at once, and not first a wait, which Ready alone shows."""


def small(image: str, **spec: Any) -> Object:  # as YAML would have it
    """A ThreadCluster of one worker."""
    return cluster(**{"image": image, "shards": 8, "replicas": 1, "rollout": {}, **spec})


# --- when the cluster itself reported it


async def migration_ended(api: Api, namespace: str) -> str | None:
    """When the first migration's container ended in failure."""
    ends = []
    for pod in await api.list("v1", "Pod", namespace, labels="app.kubernetes.io/component=migration"):
        for container in pod["status"].get("containerStatuses", ()):
            ended = container["state"].get("terminated", {})
            if ended.get("exitCode"):
                ends.append(str(ended["finishedAt"]))
    return min(ends, default=None)


def event(reason: str, word: str = "") -> Report:
    """Time of Kubernetes' first report with this word."""

    async def reported(api: Api, namespace: str) -> str | None:
        found = [
            str(each["firstTimestamp"] or each["metadata"]["creationTimestamp"])
            for each in await api.list("v1", "Event", namespace)
            if each["reason"] == reason and word in each["message"]
        ]
        return min(found, default=None)

    return reported


async def made(api: Api, namespace: str) -> str | None:
    """When the ThreadCluster was made: what is in its way was there before."""
    found = await api.get(VERSION, KIND, "chat", namespace)
    return str(found["metadata"]["creationTimestamp"])


# --- what mends it


def dsn_is(dsn: str) -> Callable[[Api, str], Awaitable[object]]:
    """The Secret is made, or corrected."""
    return lambda api, namespace: api.apply(secret(dsn), namespace)


def spec_is(edit: Object) -> Callable[[Api, str], Awaitable[object]]:
    """The ThreadCluster is edited."""
    return lambda api, namespace: api.patch(VERSION, KIND, "chat", {"spec": edit}, namespace)


def gone(version: str, kind: str, name: str) -> Callable[[Api, str], Awaitable[object]]:
    """The obstacle is deleted."""
    return lambda api, namespace: api.delete(version, kind, name, namespace)


async def faults(image: str, postgres: NodePostgres, pooler: Pooler, tls_port: int, well: str) -> dict[str, Fault]:
    """All of them, each with a database of its own."""
    dsns = {name: await postgres.make_database(f"fault-{name}") for name in NAMES}
    at = urlsplit(dsns["certificate"])
    by_tls = f"postgresql://{at.username}:{at.password}@{real.ADDRESS}:{tls_port}{at.path}"
    await migrate(dsns["count"].replace(real.ADDRESS, "127.0.0.1"), cluster_id="chat", shards=16, say=lambda _: None)
    elsewhere = await postgres.make_database("fault-count-mended")
    await migrate(dsns["schema"].replace(real.ADDRESS, "127.0.0.1"), cluster_id="chat", shards=8, say=lambda _: None)
    await execute(dsns["schema"], "INSERT INTO schema_migration (version, name, checksum) VALUES (999, 'future', '')")
    await execute(dsns["tables"], "CREATE ROLE visitor LOGIN PASSWORD 'visitor'")
    visitor = dsns["tables"].replace(f"{at.username}:{at.password}@", "visitor:visitor@")
    wrong = urlsplit(dsns["password"])
    database = {"urlSecretKeyRef": {"name": "database"}}
    known = {"database": {**database, "clusterID": "chat", "tls": {"mode": "Disable"}}}
    return {
        "secret": Fault(
            "DatabaseSecretMissing", "make the Secret", event("FailedMount", "database"), {}, None, (),
            dsn_is(dsns["secret"]),
        ),
        "host": Fault(
            "DatabaseUnreachable", "correct host and port", migration_ended, {},
            dsns["host"].replace(f":{urlsplit(dsns['host']).port}/", f":{CLOSED_PORT}/"), (), dsn_is(dsns["host"]),
        ),
        "password": Fault(
            "DatabaseAuthFailed", "correct user, password", migration_ended, {},
            dsns["password"].replace(f":{wrong.password}@", ":wrong@"), (), dsn_is(dsns["password"]),
        ),
        "certificate": Fault(
            "DatabaseTLSFailed", "name the server's authority", migration_ended,
            {"database": {**database, "tls": {"mode": "VerifyFull"}}}, by_tls, (),
            spec_is({"database": {"tls": {"mode": "Require"}}}),
        ),
        "pooler": Fault(
            "DatabaseUnsuitable", "connect to the server itself", migration_ended, {},
            pooler.dsn_of(dsns["pooler"]), (), dsn_is(dsns["pooler"]),
        ),
        "other": Fault(
            "DatabaseClaimedByOther", "a database of its own", migration_ended,
            {"database": {**database, "clusterID": "another", "tls": {"mode": "Disable"}}}, well, (),
            dsn_is(dsns["other"]),
        ),
        "count": Fault(
            "ShardCountMismatch", "another database", migration_ended, known, dsns["count"], (), dsn_is(elsewhere),
        ),
        "schema": Fault(
            "SchemaTooNew", "set spec.image", migration_ended, known, dsns["schema"], (),
            lambda *_: execute(dsns["schema"], "DELETE FROM schema_migration WHERE version = 999"),
        ),
        "tables": Fault(
            "MigrationFailed", "a login that may make tables", migration_ended, {}, visitor, (), dsn_is(dsns["tables"]),
        ),
        "image": Fault(
            "ImagePullFailed", "correct spec.image", event("Failed", "no-such-image"), {"image": "no-such-image:1"},
            dsns["image"], (), spec_is({"image": image}),
        ),
        "quota": Fault(
            "MigrationQuotaExceeded", "raise the namespace's quota", event("FailedCreate", "exceeded quota"), {}, dsns["quota"],
            ({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}},),
            gone("v1", "ResourceQuota", "none"),
        ),
        "foreign": Fault(
            "NameConflict", "rename this ThreadCluster", made, {}, dsns["foreign"],
            ({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": {"ports": [{"port": 1}]}},),
            gone("v1", "Service", "chat"),
        ),
        "place": Fault(
            "WorkerUnschedulable", "add nodes", event("FailedScheduling"),
            {"podTemplate": {"spec": {"nodeSelector": {"disk": "of-gold"}}}}, dsns["place"], (),
            spec_is({"podTemplate": {"spec": {"nodeSelector": None}}}), stalls=False,
        ),
        "crash": Fault(
            "WorkerCrashLooping", "kubectl logs --previous", event("BackOff", "restarting"),
            {"worker": {"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]}}, dsns["crash"], (),
            spec_is({"worker": {"env": []}}),
        ),
    }  # fmt: skip


async def execute(dsn: str, statement: str) -> None:
    """Run a statement in a database of the tests' own Postgres."""
    connection = await asyncpg.connect(dsn.replace(real.ADDRESS, "127.0.0.1"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def namespaces(api: Api, names: list[str]) -> AsyncIterator[None]:
    """A namespace for each fault."""
    for name in names:
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, name)
    try:
        yield
    finally:
        for name in names:
            await api.delete("v1", "Namespace", name)


async def reported(api: Api, name: str, fault: Fault) -> float:
    """Seconds from Kubernetes' report to the fault's name in the status; checks the message."""
    async with asyncio.timeout(180):
        while (reported := await fault.report(api, name)) is None:
            await asyncio.sleep(0.5)
    where = "Stalled" if fault.stalls else "Ready"
    found = await api.wait_for(
        VERSION,
        KIND,
        "chat",
        lambda it: condition(it, where).get("reason") == fault.reason,
        name,
        within_s=3 * REPORTED_S,
    )
    now = datetime.now(UTC)
    assert fault.remedy in condition(found, where)["message"], condition(found, where)
    assert condition(found, "Ready")["status"] == "False"
    if not fault.stalls:
        assert condition(found, "Stalled")["status"] == "False"
        return (now - datetime.fromisoformat(reported)).total_seconds()
    events: list[Object] = []
    async with asyncio.timeout(REPORTED_S):  # they are written beside the status
        while not events:
            events = [
                each
                for each in await api.list("v1", "Event", name)
                if each["involvedObject"]["kind"] == KIND and each["reason"] == fault.reason
            ]
            await asyncio.sleep(0.2)
    assert {each["type"] for each in events} == {"Warning"}
    assert any(fault.remedy in each["message"] for each in events), events
    first = min(datetime.fromisoformat(each["firstTimestamp"]) for each in events)
    return (first - datetime.fromisoformat(reported)).total_seconds()


async def healed(api: Api, name: str, fault: Fault) -> float:
    """How long after it was mended the cluster was Ready; it goes then, and leaves the node to the others."""
    assert fault.mends is not None
    began = asyncio.get_running_loop().time()
    await fault.mends(api, name)
    await api.wait_for(VERSION, KIND, "chat", is_ready, name, within_s=HEALED_S)
    took_s = asyncio.get_running_loop().time() - began
    await api.delete(VERSION, KIND, "chat", name)
    return took_s


async def test_every_fault_is_named_and_heals(node: Cluster, api: Api, namespace: str, tmp_path: Path) -> None:
    """Within ten seconds of Kubernetes' own report, with the remedy; healthy clusters are not affected."""
    if node.postgres is None:
        pytest.fail("on a cluster that was given these faults are its owner's to make: unset KUBECONFIG")
    postgres = node.postgres
    where = {name: f"{namespace}-{name}" for name in NAMES}
    async with AsyncExitStack() as undo:
        await undo.enter_async_context(namespaces(api, list(where.values())))
        await undo.enter_async_context(printed_on_failure(node, namespace, *where.values()))
        await install(node)
        well = await postgres.make_database("well")
        await api.apply(secret(well), namespace)
        await api.create(small(node.image, replicas=2), namespace)
        at = urlsplit(well)
        assert at.port is not None
        front = await undo.enter_async_context(TlsFront(at.port, real.ADDRESS))
        pooler = Pooler(tmp_path / "pooler", real.ADDRESS, well)
        pooler.start()
        undo.callback(pooler.stop)
        await api.wait_for(VERSION, KIND, "chat", is_ready, namespace, within_s=180)
        service = await api.get("v1", "Service", "chat", namespace)
        chat = Chat(f"http://{service['spec']['clusterIP']}")
        await chat.begin()

        wrong = await faults(node.image, postgres, pooler, front.port, well)
        for name, fault in wrong.items():
            if fault.dsn is not None:
                await api.apply(secret(fault.dsn), where[name])
            for each in fault.objects:
                await api.create(each, where[name])
            await api.create(small(**{"image": node.image, **fault.spec}), where[name])
        after = await asyncio.gather(*(reported(api, where[name], fault) for name, fault in wrong.items()))
        again = await asyncio.gather(*(healed(api, where[name], fault) for name, fault in wrong.items()))
        await chat.end()
        print(f"\n{'fault':<12} {'reason':<24} reported after  Ready after it was mended")
        for (name, fault), reported_s, healed_s in zip(wrong.items(), after, again, strict=True):
            print(f"{name:<12} {fault.reason:<24} {reported_s:>8.0f} s  {healed_s:>8.1f} s")
        print(f"beside them {len(chat.acknowledged)} messages, the longest took {chat.longest_s:.1f} s")
        assert await chat.heard() == chat.acknowledged
        assert max(after) <= REPORTED_S
