"""The fault matrix on a real control plane: each fault alone, and pairs of them that last at the same time.

While a fault lasts an edit of another cluster is acted on at once, the status names the cause, what cannot be written is
hardly ever tried, and no worker is ended; soon after its end the cluster is Ready.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import yaml

from tests.e2e.cluster import faults
from tests.e2e.cluster.conftest import CRD, Cluster, apply_crd
from tests.e2e.cluster.control_plane import ControlPlane, read_timed_writes
from tests.e2e.cluster.fault_place import Place, place
from tests.e2e.cluster.fault_site import STUCK, WELL, Site
from tests.e2e.cluster.faults import FAULTS, OPERATOR, Fault, within
from tests.e2e.cluster.harness import condition, is_ready, page
from tests.support.kube_api import Api, Object, Refused, reach
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("KUBECONFIG" in os.environ, reason="the faults are those of the tests' own control plane"),
]

NAMED_S: Final = 10.0
HEALED_S: Final = 10.0
OTHERS_S: Final = 1.0
"""Time within which an edit of another cluster is acted on."""
_TRIED_S: Final = 60.0
"""Time in which a stuck object may be tried more often than once in 30 s."""
_WATCHED_S: Final = 95.0
"""For how long a fault lasts: that time, and a window of 30 s after it."""
_OPERATOR_USER: Final = f"system:serviceaccount:{OPERATOR[0]}:{OPERATOR[1]}"
_AT_ONCE: Final = 5
"""Pairs that last at the same time: the operator that is measured shares a process with the tests and all workers."""
_EDIT_EVERY_S: Final = 3.0
_APART_S: Final = 0.7
"""Between the beginnings of two sets of faults: what is measured of each is not the work of beginning all."""

PAIRS: Final[dict[str, tuple[Fault, Fault]]] = {
    f"{one.name} + {other.name}": (one, other)
    for one, other in (
        (faults.WEBHOOK_DOWN, faults.KIND_MISSING),
        (faults.WEBHOOK_DOWN, faults.TYPED_PATCH),
        (faults.WEBHOOK_DOWN, faults.NODE_SILENT),
        (faults.WEBHOOK_DOWN, faults.DATABASE_FROZEN),
        (faults.KIND_MISSING, faults.QUOTA),
        (faults.KIND_MISSING, faults.API_429),
        (faults.TYPED_PATCH, faults.MUTATING_RULE),
        (faults.TYPED_PATCH, faults.DATABASE_FROZEN),
        (faults.TYPED_PATCH, faults.HUGE_OWNERSHIP),
        (faults.MUTATING_RULE, faults.LOST_RIGHT),
        (faults.MUTATING_RULE, faults.WATCH_GAP),
        (faults.QUOTA, faults.LOST_RIGHT),
        (faults.QUOTA, faults.NEIGHBOURS_SILENT),
        (faults.LOST_RIGHT, faults.API_500),
        (faults.API_429, faults.NODE_SILENT),
        (faults.API_500, faults.HOSTILE_OBJECT),
        (faults.NODE_SILENT, faults.WATCH_GAP),
        (faults.DATABASE_FROZEN, faults.HOSTILE_OBJECT),
        (faults.HUGE_OWNERSHIP, faults.WATCH_GAP),
    )
}
"""With the pair of the kind that comes late, twenty."""


class Outcome(NamedTuple):
    """The observations of one site."""

    name: str
    named_s: tuple[float | None, ...]
    """Of each fault; None for one that was not named in time."""
    others_s: float
    """The slowest edit of the other cluster."""
    stuck: tuple[float, float]
    """From when to when the writes of stuck objects count, in seconds since the epoch."""
    healed_s: float | None
    wrong: tuple[str, ...]

    def row(self, writes: Sequence[int | None]) -> str:
        """For the table of docs/verification.md."""
        named = ", ".join("-" if each is None else f"{each:.1f} s" for each in self.named_s)
        written = ", ".join("-" if each is None else str(each) for each in writes)
        healed = "-" if self.healed_s is None else f"{self.healed_s:.1f} s"
        return f"| {self.name} | {named} | {healed} | {written} | {self.others_s:.2f} s | {'; '.join(self.wrong)} |"


@pytest.fixture
async def api_with_open_schema(own_control_plane: ControlPlane) -> AsyncIterator[Api]:
    """A control plane whose CustomResourceDefinition lets an affinity of any depth pass, as earlier ones did."""
    await asyncio.to_thread(own_control_plane.start)
    await apply_crd(Cluster(own_control_plane.kubeconfig, own_control_plane.audit_log))
    async with reach(own_control_plane.kubeconfig, audit_log=own_control_plane.audit_log) as api:
        await api.apply(_open_schema(yaml.safe_load(CRD.read_text())))
        yield api


def _open_schema(definition: Object) -> Object:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    pod_spec = schema["properties"]["spec"]["properties"]["podTemplate"]["properties"]["spec"]["properties"]
    pod_spec["affinity"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return definition


async def acted_on(site: Site) -> float:
    """How long an edit of the other cluster takes until its object is changed."""
    stamp, began = str(time.time()), time.monotonic()
    await site.harness.edit(WELL, {"gateway": {"service": {"annotations": {"example.org/at": stamp}}}})
    await site.api.wait_for(
        "v1",
        "Service",
        WELL,
        lambda it: it["metadata"].get("annotations", {}).get("example.org/at") == stamp,
        site.namespace,
    )
    return time.monotonic() - began


async def workers_of(site: Site) -> tuple[dict[str, str], int]:
    """The pods of the stuck cluster's workers by name, and how many its StatefulSet wants."""
    labels = f"app.kubernetes.io/instance={STUCK},app.kubernetes.io/component=worker"
    pods = await site.api.list("v1", "Pod", site.namespace, labels=labels)
    live = await site.api.get("apps/v1", "StatefulSet", STUCK, site.namespace)
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in pods}, live["spec"]["replicas"]


def late_writes(site: Site, fault: Fault, found: Outcome) -> int | None:
    """The most writes of its stuck object within 30 s, after the first minute; None for a fault that has none."""
    since, until = found.stuck
    if fault.stuck is None or since >= until:
        return None
    assert site.api.audit_log is not None
    resource, name = fault.stuck
    times = [
        at
        for at, write in read_timed_writes(site.api.audit_log, namespace=site.namespace, user=_OPERATOR_USER)
        if write.resource == resource and write.name in (name, "")
    ]
    times += [at for at, _, path in site.proxy.writes if f"/namespaces/{site.namespace}/{resource}" in path]
    late = [at for at in times if since < at < until]
    return max((sum(first <= each < first + 30.0 for each in late) for first in late), default=0)


async def tried(site: Site, name: str, both: Sequence[Fault], lasts_s: float) -> Outcome:
    """The faults begin together, last, and end one after the other."""
    wrong: list[str] = []
    before, began = await workers_of(site), time.time()
    named: list[asyncio.Task[float | None]] = []
    for fault in both:
        await fault.begin(site)
        named.append(asyncio.create_task(_named(site, fault)))
    edits: list[float] = []
    while True:
        edits.append(await acted_on(site))
        if time.time() > began + lasts_s and all(each.done() for each in named):
            break
        await asyncio.sleep(min(_EDIT_EVERY_S, lasts_s))
    named_s = tuple(each.result() for each in named)
    if (
        any(fault.reason for fault in both)
        and min((each for each in named_s if each is not None), default=99) > NAMED_S
    ):
        wrong.append(f"not named: {await _conditions(site)}")
    ended = time.time()
    if await workers_of(site) != before:
        wrong.append(f"workers were {before}, are {await workers_of(site)}")
    healed_s, unhealed = await mended(site, both)
    wrong += unhealed
    slowest = max(edits)
    if slowest > OTHERS_S:
        wrong.append("another cluster waited")
    return Outcome(name, named_s, slowest, (began + _TRIED_S, ended), healed_s, tuple(wrong))


async def mended(site: Site, both: Sequence[Fault]) -> tuple[float | None, list[str]]:
    """The faults end in their order; seconds from the last end until the cluster is well, and what is wrong."""
    for number, fault in enumerate(both):
        await fault.mend(site)
        rest = both[number + 1 :]
        if rest and rest[0].reason and await within(rest[0].is_named, site, NAMED_S) is None:
            return None, [f"{rest[0].name} is not named after the other: {await _conditions(site)}"]
    healed_s = 0.0
    for fault in both:
        took = await within(fault.mended, site, 3 * HEALED_S)
        if took is None:
            return None, [f"{fault.name} is not mended: {await _conditions(site)}"]
        healed_s = max(healed_s, took)
    return healed_s, ["healed late"] if healed_s > HEALED_S else []


async def _named(site: Site, fault: Fault) -> float | None:
    return await within(fault.is_named, site, 3 * NAMED_S) if fault.reason else None


async def _conditions(site: Site) -> str:
    found = await site.harness.look(STUCK)
    return "; ".join(f"{each}: {condition(found, each).get('reason')}" for each in ("Ready", "Available", "Stalled"))


async def all_tried(
    where: Place, sets: Mapping[str, tuple[Fault, ...]], lasts_s: float, *, batch: int = 0
) -> list[Outcome]:
    """Each set of faults in a namespace of its own, all at once; ``batch`` tells the namespaces of several calls apart."""
    ready = asyncio.Barrier(len(sets))

    async def one(number: int, name: str, both: tuple[Fault, ...]) -> tuple[Site, Outcome]:
        async with where.site(f"faults-{batch}-{number}", both) as site:
            await ready.wait()
            await asyncio.sleep(number * _APART_S)
            return site, await tried(site, name, both, lasts_s)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number, *each)) for number, each in enumerate(sets.items())]
    print("\n| fault | named after | healed after | writes in 30 s after the first minute | other edits | |")
    return [with_writes(*task.result(), sets[name]) for task, name in zip(tasks, sets, strict=True)]


def with_writes(site: Site, found: Outcome, both: Sequence[Fault]) -> Outcome:
    """The outcome with what the logs say, which are long: they are read when nothing is measured any more."""
    writes = [late_writes(site, fault, found) for fault in both]
    more = [f"{each} writes of {fault.stuck}" for each, fault in zip(writes, both, strict=True) if (each or 0) > 1]
    found = found._replace(wrong=(*found.wrong, *more))
    print(found.row(writes), flush=True)
    return found


@pytest.mark.timeout(600)
async def test_each_fault_alone(api_with_open_schema: Api, tmp_path: Path) -> None:
    """Each in its own namespace, under one operator."""
    async with place(api_with_open_schema, tmp_path, spare_nodes=2) as where:
        found = await all_tried(where, {each.name: (each,) for each in FAULTS}, _WATCHED_S)
    assert [each for each in found if each.wrong] == []


async def test_a_pair_of_faults(api_with_open_schema: Api, tmp_path: Path) -> None:
    """A short one: a webhook that is down, beside a quota."""
    pair = {"webhook down + quota": (faults.WEBHOOK_DOWN, faults.QUOTA)}
    async with place(api_with_open_schema, tmp_path, spare_nodes=0) as where:
        [found] = await all_tried(where, pair, 3.0)
    assert found.wrong == ()


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_pairs_of_faults(api_with_open_schema: Api, tmp_path: Path) -> None:
    """Nineteen; the twentieth is that of the kind which comes late."""
    spare = 2 * sum(faults.NODE_SILENT in each for each in PAIRS.values())
    async with place(api_with_open_schema, tmp_path, spare_nodes=spare) as where:
        found: list[Outcome] = []
        for batch in range(0, len(PAIRS), _AT_ONCE):
            sets = dict(itertools.islice(PAIRS.items(), batch, batch + _AT_ONCE))
            found += await all_tried(where, sets, _WATCHED_S, batch=batch)
    assert [each for each in found if each.wrong] == []


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("other", [faults.WEBHOOK_DOWN], ids=["webhook down"])
async def test_a_kind_that_comes_late_beside_another_fault(
    own_control_plane: ControlPlane, tmp_path: Path, other: Fault
) -> None:
    """The operator waits for ThreadClusters, and says so; when they come, the other fault is named, and disturbs no one."""
    plane = own_control_plane
    await asyncio.to_thread(plane.start)
    async with (
        reach(plane.kubeconfig, audit_log=plane.audit_log) as api,
        place(api, tmp_path, spare_nodes=0) as where,
        where.empty_site("late") as site,
    ):
        await other.prepare(site)
        await site.hooks["down"].stop()

        async def waits() -> bool:
            return await page(where.operator, "/readyz") == (200, "leading, waits for threadclusters\n")

        await eventually(waits, within_s=NAMED_S)
        await apply_crd(Cluster(plane.kubeconfig, plane.audit_log))
        began = time.monotonic()
        for name in (WELL, STUCK):

            async def made(name: str = name) -> bool:
                with contextlib.suppress(Refused):  # the API server names a new kind some moments after it has taken it
                    await site.make(name, replicas=1)
                    return True
                return False

            await eventually(made, within_s=30)
        await api.wait_for("v1", "Secret", f"{WELL}-internal", lambda _: True, site.namespace, within_s=HEALED_S)
        print(f"\nfirst child {time.monotonic() - began:.1f} s after the kind was served")
        assert await within(other.is_named, site, NAMED_S) is not None
        await site.harness.until(WELL, is_ready)
        await api.wait_for(
            "apps/v1", "StatefulSet", STUCK, lambda it: it.get("status", {}).get("readyReplicas") == 1, site.namespace
        )
        lasting = replace(other, begin=faults.nothing)
        found = await tried(site, f"CRD late + {other.name}", (lasting,), _WATCHED_S)
        found = with_writes(site, found, (lasting,))
    assert found.wrong == ()
