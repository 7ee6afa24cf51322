"""A cluster that serves: another one is given its database, a release comes and goes, Postgres freezes.

The tests share one cluster, because to make one takes longer than most of what is asked here; each of them leaves it Ready.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tests.e2e.cluster.harness import KIND, VERSION, condition, is_ready, stalled_by
from tests.e2e.node import image, next_image
from tests.e2e.node.chat import apply, cluster, printed_on_failure, secret, signal_container
from tests.e2e.node.conftest import Cluster
from tests.e2e.node.shared_cluster import NAME, REPLICAS, SharedCluster, make_namespace, shared_cluster
from tests.support.claims import traces
from tests.support.journal_check import assert_journal_valid
from tests.support.kube_api import Api, Object
from tests.support.load.chat import drive, verify
from tests.support.load.figures import Figures
from tests.support.load.record import Recorder
from tests.support.local_cluster import LocalCluster
from tests.support.polling import eventually, more_acknowledged

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

CLIENTS: Final = 8
MORE: Final = 30
"""Commands that are acknowledged between two steps."""
REPORTED_S: Final = 10.0
HEALED_S: Final = 10.0
HELD_S: Final = 5.0
CLAIMED: Final = "DatabaseClaimedByOther"


@pytest.fixture(scope="module")
def shared(node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """The cluster of these tests, on a node that has the image of the next release too."""
    with shared_cluster(node) as made:
        node.import_image(next_image.write_image(tmp_path_factory.mktemp("image") / "next.tar", image.built()))
        yield made


# --- a database that is another cluster's


class Rival:
    """A ThreadCluster that is given a database that another one has, or wants."""

    def __init__(self, node: Cluster, api: Api, namespace: str, name: str = NAME) -> None:
        self.namespace = namespace
        self.name = name
        self._node = node
        self._api = api

    async def make(self, dsn: str, shards: int, **database: str) -> None:
        """In a namespace that is there."""
        given = {"urlSecretKeyRef": {"name": "database"}, "tls": {"mode": "Disable"}, **database}
        wanted = cluster(self._node.image, shards=shards, replicas=1, database=given)
        wanted["metadata"]["name"] = self.name
        await apply(self._node, self.namespace, secret(dsn), wanted)

    async def until(self, holds: Callable[[Object], bool], within_s: float = 90.0) -> Object:
        """The ThreadCluster, as soon as something holds of it."""
        return await self._api.wait_for(VERSION, KIND, self.name, holds, self.namespace, within_s=within_s)

    async def refused(self, *words: str) -> None:
        """Return when it is refused by the name of the database's holder, with these words; nothing of it runs."""
        found = await self.until(
            lambda it: stalled_by(CLAIMED)(it) and all(word in condition(it, "Stalled")["message"] for word in words)
        )
        assert condition(found, "Ready")["status"] == "False"
        assert await self._api.find("apps/v1", "StatefulSet", self.name, self.namespace) is None

    async def refused_again(self, *words: str) -> None:
        """The same of an attempt that is made now."""
        for job in await self._api.list("batch/v1", "Job", self.namespace, labels=self._labels):
            await self._api.delete("batch/v1", "Job", job["metadata"]["name"], self.namespace, grace_s=0)
        known = {pod["metadata"]["uid"] for pod in await self._migrations()}

        async def failed() -> bool:
            ends = [each for each in await self._migrations() if each["metadata"]["uid"] not in known]
            return any(_exit_code(each) for each in ends)

        await eventually(failed, within_s=60, what=f"another attempt of {self.namespace}/{self.name} has failed")
        await self.refused(*words)

    async def gone(self) -> None:
        """Delete it."""
        await self._api.delete(VERSION, KIND, self.name, self.namespace)

    @property
    def _labels(self) -> str:
        return f"app.kubernetes.io/component=migration,app.kubernetes.io/instance={self.name}"

    async def _migrations(self) -> list[Object]:
        return await self._api.list("v1", "Pod", self.namespace, labels=self._labels)


def _exit_code(pod: Object) -> int:
    ends = [each["state"].get("terminated") for each in pod["status"].get("containerStatuses", ())]
    return next((int(end["exitCode"]) for end in ends if end), 0)


async def test_a_second_cluster_on_its_database_is_refused_by_name(
    node: Cluster, api: Api, shared: SharedCluster, tmp_path: Path
) -> None:
    """While the holder serves, is frozen, and is scaled to zero; the holder notices nothing until it is displaced by name."""
    async with AsyncExitStack() as undo:
        places = [f"{shared.namespace}-{number}" for number in (1, 2, 3, 4)]
        for place in places:
            await make_namespace(api, place)
            undo.push_async_callback(api.delete, "v1", "Namespace", place)
        await undo.enter_async_context(printed_on_failure(node, shared.namespace, *places))
        holder = await shared.begin(api)
        # Two that begin at the same time on an empty database, and one on a database of the local platform: beside the rest.
        aside = asyncio.gather(
            _of_two_at_once_one_is_refused(node, api, shared, places[2:]),
            _local_holder_is_respected(node, api, shared, tmp_path, places[1]),
        )
        await _holder_is_respected(node, api, shared, holder, places[0], tmp_path)
        await aside
        await _holder_is_displaced_by_name(api, shared, holder, Rival(node, api, places[0]))


async def _holder_is_respected(
    node: Cluster, api: Api, shared: SharedCluster, holder: Object, elsewhere: str, folder: Path
) -> None:
    uid = holder["metadata"]["uid"]
    named = (f"(of {shared.namespace}/{NAME}, uid {uid}, in ", f"spec.database.takeOver: {uid}")
    namesake, other = Rival(node, api, elsewhere), Rival(node, api, shared.namespace, "second")
    same_id = Rival(node, api, elsewhere, "third")
    before = await traces(shared.dsn)
    async with shared.chatting(api) as chats:
        await namesake.make(shared.dsn, 24)
        await other.make(shared.dsn, 24)
        await same_id.make(shared.dsn, 24, clusterID=f"{shared.namespace}.{NAME}")
        for each in (namesake, other, same_id):
            await each.refused(*named)
        local = LocalCluster(folder / "local", database_url=shared.dsn, shards=24)
        with pytest.raises(AssertionError) as refused:
            await local.up(1)
        assert all(word in str(refused.value) for word in named), refused.value
        for each in (other, same_id):
            await each.gone()
        assert [chat.failed for chat in chats] == [{}] * len(chats)
        assert await traces(shared.dsn) == before
        assert is_ready(await shared.ready(api))

        workers = [f"{NAME}-{ordinal}" for ordinal in range(REPLICAS)]
        for worker in workers:
            signal_container(worker, signal.SIGSTOP, uid)
        began = time.monotonic()
        await namesake.refused_again(*named)
        frozen_s = time.monotonic() - began
        for worker in workers:
            signal_container(worker, signal.SIGCONT, uid)
        await shared.ready(api)
        print(f"\nrefused while the holder was frozen for {frozen_s:.1f} s")
    await shared.edit(api, {"replicas": 0})
    await shared.ready(api)
    silent = await traces(shared.dsn)
    await namesake.refused_again(*named, "which ended in order")
    assert await traces(shared.dsn) == silent
    await shared.edit(api, {"replicas": REPLICAS})
    await shared.ready(api)


async def _of_two_at_once_one_is_refused(node: Cluster, api: Api, shared: SharedCluster, places: list[str]) -> None:
    dsn = await shared.postgres.make_database(f"{shared.namespace}-two")
    two = [Rival(node, api, place) for place in places]
    await asyncio.gather(*(each.make(dsn, 8) for each in two))
    found = await asyncio.gather(*(each.until(lambda it: is_ready(it) or stalled_by(CLAIMED)(it)) for each in two))
    [won] = [each for each in found if is_ready(each)]
    [lost] = [each for each in found if not is_ready(each)]
    meta = won["metadata"]
    assert f"(of {meta['namespace']}/{NAME}, uid {meta['uid']}, in " in condition(lost, "Stalled")["message"]
    for each in two:
        await each.gone()


async def _local_holder_is_respected(node: Cluster, api: Api, shared: SharedCluster, folder: Path, place: str) -> None:
    dsn = await shared.postgres.make_database(f"{shared.namespace}-local")
    local, rival = LocalCluster(folder / "holder", database_url=dsn, shards=8), Rival(node, api, place)
    await local.up(1)
    holder, before = (local.data_dir / "id").read_text().strip(), await traces(dsn)
    await rival.make(dsn, 8)
    await rival.refused(f"(of test, uid {holder}, in ", f"spec.database.takeOver: {holder}")
    assert await traces(dsn) == before
    await local.down()
    await rival.refused_again(f"uid {holder}", "which ended in order")
    await rival.gone()


async def _holder_is_displaced_by_name(api: Api, shared: SharedCluster, holder: Object, rival: Rival) -> None:
    uid = holder["metadata"]["uid"]

    async def take_over(namespace: str, displaced: str) -> None:
        await api.patch(VERSION, KIND, NAME, {"spec": {"database": {"takeOver": displaced}}}, namespace)

    began = time.monotonic()
    await take_over(rival.namespace, uid)
    taken = await rival.until(is_ready)
    other = f"(of {rival.namespace}/{NAME}, uid {taken['metadata']['uid']}, in "
    found = await api.wait_for(VERSION, KIND, NAME, stalled_by(CLAIMED), shared.namespace)
    assert other in condition(found, "Stalled")["message"]
    assert condition(found, "Ready")["status"] == "False"
    print(f"displaced by name, and reported: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    await take_over(shared.namespace, taken["metadata"]["uid"])
    await shared.ready(api)
    await rival.until(stalled_by(CLAIMED))
    print(f"taken back: {time.monotonic() - began:.1f} s")
    await rival.gone()


# --- a release, and back


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Recorder]:
    """Clients that chat for as long as the block runs: no request fails, nothing is lost, doubled or reordered."""
    stop, recorder, figures = asyncio.Event(), Recorder(seed=1, clients=CLIENTS), Figures()
    driving = asyncio.create_task(
        drive(
            url,
            clients=CLIENTS,
            until=stop,
            seed=1,
            pause_s=0.1,
            recorder=recorder,
            figures=figures,
            allow_remote=True,  # nothing but this node can be reached
        ),
        name="load",
    )
    try:
        await more_acknowledged(recorder, MORE)
        yield recorder
        await more_acknowledged(recorder, MORE)
    finally:
        stop.set()
        record = await driving
    failed = {name: operation.by_code for name, operation in figures.operations.items()}
    print(f"{figures.sent:,} requests of {CLIENTS} clients, {recorder.acknowledged_count:,} commands stored")
    assert (figures.total("refused"), figures.total("unknown"), figures.not_sent) == (0, 0, 0), failed
    assert await verify(url, record, allow_remote=True) == []


async def images(api: Api, shared: SharedCluster) -> dict[str, str]:
    """The image of each worker that is not ending."""
    labels = f"app.kubernetes.io/component=worker,app.kubernetes.io/instance={NAME}"
    return {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"]
        for pod in await api.list("v1", "Pod", shared.namespace, labels=labels)
        if "deletionTimestamp" not in pod["metadata"]
    }


async def schema_version(dsn: str) -> int:
    """The newest migration that was run."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT max(version) FROM schema_migration"))
    finally:
        await connection.close()


async def test_a_release_with_a_new_schema_goes_forward_and_back_and_forward(
    node: Cluster, api: Api, shared: SharedCluster
) -> None:
    """Halted half-way, taken back, and begun again, and scaled in between: no request fails."""
    this, following = node.image, next_image.NAME
    steps: list[tuple[str, float]] = []
    began = time.monotonic()

    def step(name: str) -> None:
        steps.append((name, time.monotonic() - began))

    async def wanted(image_name: str, **spec: Any) -> None:
        await apply(node, shared.namespace, shared.manifest(image_name, **spec))

    async with printed_on_failure(node, shared.namespace):
        await shared.begin(api)
        assert await images(api, shared) == {"chat-0": this, "chat-1": this}
        async with load(await shared.url(api)) as recorder:
            await wanted(following)
            halted = {"chat-0": this, "chat-1": following}
            await eventually(lambda: _equals(images(api, shared), halted), within_s=120, what="the first worker is new")
            await wanted(following, rollout={"minReadySeconds": 0, "paused": True})
            await api.wait_for(VERSION, KIND, NAME, _halted, shared.namespace, within_s=60)
            assert await schema_version(shared.dsn) == next_image.SCHEMA
            await more_acknowledged(recorder, MORE)
            assert await images(api, shared) == halted
            step("halted")

            await node.kubectl("scale", f"threadcluster/{NAME}", "--replicas=3", "-n", shared.namespace)
            await api.wait_for(VERSION, KIND, NAME, _serves_with(3), shared.namespace, within_s=60)
            assert (await images(api, shared)).items() >= halted.items()
            step("scaled to 3")

            await wanted(this, replicas=3)
            await shared.ready(api)
            assert set((await images(api, shared)).values()) == {this}
            assert await schema_version(shared.dsn) == next_image.SCHEMA
            step("rolled back")

            await node.kubectl("scale", f"threadcluster/{NAME}", "--replicas=2", "-n", shared.namespace)
            await shared.ready(api)
            step("scaled to 2")

            await wanted(following)
            await shared.ready(api)
            assert await images(api, shared) == {"chat-0": following, "chat-1": following}
            step("forward")
        await assert_journal_valid(shared.dsn)
        print("; ".join(f"{name} after {at:.0f} s" for name, at in steps))


async def _equals(found: Any, wanted: object) -> bool:  # an awaitable of what is found
    return bool(await found == wanted)


def _halted(found: Object) -> bool:
    return condition(found, "Paused").get("reason") == "RolloutPaused" and "spec.rollout.paused" in condition(
        found, "Ready"
    ).get("message", "")


def _serves_with(workers: int) -> Callable[[Object], bool]:
    """Whether this number of workers have shards, and all shards are served."""

    def holds(found: Object) -> bool:
        status = found["status"]
        owned = [each["shards"] for each in status["workers"] if each["shards"]]
        return len(owned) == workers and condition(found, "Available")["status"] == "True" and not _moving(status)

    return holds


def _moving(status: Object) -> bool:
    return bool(status["shards"]["moving"])


# --- a database that is away


async def test_a_frozen_postgres_is_reported_and_nothing_moves(node: Cluster, api: Api, shared: SharedCluster) -> None:
    """Also what is asked for meanwhile waits: no worker is restarted or removed before Postgres is back."""
    async with printed_on_failure(node, shared.namespace):
        await shared.begin(api)
        async with shared.chatting(api) as chats:
            with shared.postgres.frozen():
                reported_s = await _reported(api, shared)
            began = time.monotonic()
            await shared.ready(api)
            ready_s = time.monotonic() - began

            with shared.postgres.frozen():
                again_s = await _reported(api, shared)
                async with _nothing_moves(api, shared):
                    await _ask_for_a_restart_and_a_shrink(api, shared)
                    await asyncio.sleep(HELD_S)
                    [present] = set((await images(api, shared)).values())
                    release = next_image.NAME if present == node.image else node.image
                    await shared.edit(api, {"image": release})
                    await eventually(lambda: _migration_failed(api, shared), within_s=60, what="the migration fails")
            began = time.monotonic()
            await api.wait_for(
                VERSION, KIND, NAME, lambda it: condition(it, "Available")["status"] == "True", shared.namespace
            )
            served_s = time.monotonic() - began
            await shared.ready(api)
            done_s = time.monotonic() - began
        assert await images(api, shared) == {f"{NAME}-{ordinal}": release for ordinal in range(REPLICAS - 1)}
        print(
            f"\nfrozen: reported after {reported_s:.1f} s, Ready {ready_s:.1f} s after its end; with a release and a shrink"
            f" asked for: reported after {again_s:.1f} s, served {served_s:.1f} s and Ready {done_s:.1f} s after its end;"
            f" {sum(len(chat.acknowledged) for chat in chats)} messages"
        )
        assert max(reported_s, again_s) <= REPORTED_S
        assert max(ready_s, served_s) <= HEALED_S


def is_away(found: Object) -> bool:
    """Whether Ready and Available say that the database is away, which is no failure of the cluster yet."""
    conditions = [condition(found, name) for name in ("Ready", "Available", "Stalled")]
    away = ("False", "DatabaseUnreachable")
    return [(each.get("status"), each.get("reason")) for each in conditions] == [away, away, ("False", "NotStalled")]


async def _reported(api: Api, shared: SharedCluster) -> float:
    """Seconds until the database is reported to be away."""
    began = time.monotonic()
    await api.wait_for(VERSION, KIND, NAME, is_away, shared.namespace)
    return time.monotonic() - began


async def _ask_for_a_restart_and_a_shrink(api: Api, shared: SharedCluster) -> None:
    """Return when the workers' new template is applied."""

    async def template() -> str:
        live = await api.get("apps/v1", "StatefulSet", NAME, shared.namespace)
        return str(live["metadata"]["annotations"]["threadcluster.io/template"])

    before = await template()
    generation = await shared.edit(api, {"replicas": REPLICAS - 1, "worker": {"snapshotEveryEvents": 60}})
    await api.wait_for(
        VERSION, KIND, NAME, lambda it: it["status"]["observedGeneration"] == generation, shared.namespace
    )
    await eventually(lambda: _differs(template(), before), what="the template is applied")


@asynccontextmanager
async def _nothing_moves(api: Api, shared: SharedCluster) -> AsyncIterator[None]:
    """Fail unless every worker stays as it is, and the database is reported to be away, for as long as the block runs."""
    live = await api.get("apps/v1", "StatefulSet", NAME, shared.namespace)
    pods = await _pods(api, shared)
    seen = [(live["spec"]["replicas"], _partition(live))]

    async def watch_workers() -> None:
        since = live["metadata"]["resourceVersion"]
        async for _, found in api.watch("apps/v1", "StatefulSet", shared.namespace, since=since):
            seen.append((found["spec"]["replicas"], _partition(found)))

    async def watch_status() -> None:
        while True:
            found = await api.get(VERSION, KIND, NAME, shared.namespace)
            assert is_away(found), found["status"]
            assert await _pods(api, shared) == pods
            await asyncio.sleep(0.2)

    watching = [
        asyncio.create_task(watch_workers(), name="workers"),
        asyncio.create_task(watch_status(), name="status"),
    ]
    try:
        yield
        assert not any(each.done() for each in watching), [each.exception() for each in watching if each.done()]
    finally:
        for each in watching:
            each.cancel()
    assert len(seen) > 1
    assert set(seen) == {seen[0]}, json.dumps(seen)


async def _differs(found: Any, before: object) -> bool:  # an awaitable of what is found
    return bool(await found != before)


async def _migration_failed(api: Api, shared: SharedCluster) -> bool:
    labels = f"app.kubernetes.io/component=migration,app.kubernetes.io/instance={NAME}"
    return any(_exit_code(pod) for pod in await api.list("v1", "Pod", shared.namespace, labels=labels))


def _partition(stateful_set: Object) -> int:
    return int(stateful_set["spec"]["updateStrategy"]["rollingUpdate"]["partition"])


async def _pods(api: Api, shared: SharedCluster) -> dict[str, tuple[str, bool, int]]:
    """Uid, readiness and restarts of each pod of a worker."""
    labels = f"app.kubernetes.io/component=worker,app.kubernetes.io/instance={NAME}"
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            "deletionTimestamp" not in pod["metadata"] and condition(pod, "Ready").get("status") == "True",
            sum(each["restartCount"] for each in pod["status"]["containerStatuses"]),
        )
        for pod in await api.list("v1", "Pod", shared.namespace, labels=labels)
    }
