"""The faults of the matrix: how each begins and ends, what the status says meanwhile, and which object cannot be written.

A fault is about the ThreadCluster `STUCK` of one namespace, a `Site`.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from threadcluster_operator.workers.client import ANSWER_MOST, NamedWorkers

from shard_worker.contract_internal import DatabaseReport, DatabaseState
from tests.e2e.cluster.admission_webhook import Patch
from tests.e2e.cluster.fault_site import STUCK, Site
from tests.e2e.cluster.harness import KIND, VERSION, condition, is_ready, thread_cluster
from tests.support.kube_api import Object
from tests.support.pod_specs import nested_affinity
from tests.support.tls import internal_server

HOSTILE: Final = "hostile"
NEIGHBOURS: Final = 40
OPERATOR: Final = ("threadcluster-system", "threadcluster-operator")
"""The operator's account."""

_LOOK_EVERY_S: Final = 0.25
_TWICE: Final = [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}] * 2
_INGRESS: Final = {"className": "nginx", "host": "chat.example"}
POLICIES: Final = "networkpolicies-patch"
"""The right that a site may lose: granted in each namespace for itself."""


Act = Callable[[Site], Awaitable[None]]
Look = Callable[[Site], Awaitable[bool]]


async def nothing(site: Site) -> None:
    """Nothing is to be prepared."""
    del site


async def _is_mended(site: Site) -> bool:
    """The stuck cluster is Ready, and not Stalled."""
    found = await site.harness.look(STUCK)
    return is_ready(found) and condition(found, "Stalled")["status"] == "False"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault."""

    name: str
    begin: Act
    mend: Act
    reason: str
    """The reason in the status; empty for a fault that keeps no cluster waiting."""
    says: str = ""
    """A part of the message, also where another reason comes first."""
    stuck: tuple[str, str] | None = None
    """The object that is not written, as the API calls its kind."""
    prepare: Act = nothing
    """Before the stuck cluster is made."""
    settle: Act = nothing
    """When it is Ready."""
    spec: Callable[[Site], Object] = lambda _: {}
    """A part of the stuck cluster's spec."""
    named: Look | None = None
    """Whether the status says it; by ``reason`` and ``says`` of the stuck cluster otherwise."""
    mended: Look = _is_mended
    lost_pods: bool = False
    """Pods are not where they were, by Kubernetes' own doing."""

    async def is_named(self, site: Site) -> bool:
        """Whether the status names the cause."""
        if self.named is not None:
            return await self.named(site)
        found = await site.harness.look(STUCK)
        conditions = [condition(found, each) for each in ("Ready", "Available", "Stalled")]
        return any(each.get("reason") == self.reason for each in conditions) or bool(
            self.says and self.says in condition(found, "Stalled").get("message", "")
        )


async def within(holds: Look, site: Site, within_s: float) -> float | None:
    """Seconds until something holds; None where it does not in time."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        if await holds(site):
            return asked - began
        if asked - began > within_s:
            return None
        await asyncio.sleep(_LOOK_EVERY_S)


# --- a webhook that is down, and one that rewrites


async def _hook_on_services(site: Site) -> None:
    hook = await site.hook("down")
    await hook.register(site.namespace, "", ["services"], instance=STUCK)


async def _hook_ends(site: Site) -> None:
    await site.hooks["down"].stop()
    await site.harness.edit(STUCK, {"gateway": {"service": {"annotations": {"example.org/at": str(time.time())}}}})


async def _hook_answers(site: Site) -> None:
    await site.hooks["down"].start()


def _tolerant(body: Object) -> Patch:
    wanted = [{"key": "example.org/spot", "operator": "Exists"}]
    if body["spec"]["template"]["spec"].get("tolerations") == wanted:
        return []
    return [{"op": "add", "path": "/spec/template/spec/tolerations", "value": wanted}]


async def _hook_rewrites(site: Site) -> None:
    hook = await site.hook("rewrites")
    hook.rewrites = _tolerant
    await hook.register(site.namespace, "apps", ["statefulsets"], kind="Mutating", instance=STUCK)


async def _rewritten(site: Site) -> bool:
    found = await site.api.list("v1", "Event", site.namespace)
    return any(
        each["reason"] == "ChangedByAdmission" and "spec.template.spec.tolerations" in each["message"] for each in found
    )


async def _hook_gone(site: Site) -> None:
    await site.hooks["rewrites"].unregister()


# --- a kind, a template, a quota, a right


def _edit(spec: Object) -> Act:
    async def edit(site: Site) -> None:
        await site.harness.edit(STUCK, spec)

    return edit


async def _quota(site: Site) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/ingresses.networking.k8s.io": "0"}}}
    await site.api.create({"apiVersion": "v1", "kind": "ResourceQuota", **quota}, site.namespace)
    await site.api.wait_for("v1", "ResourceQuota", "none", lambda it: it.get("status", {}).get("hard"), site.namespace)
    await site.harness.edit(STUCK, {"gateway": {"ingress": _INGRESS}})


async def _no_quota(site: Site) -> None:
    await site.api.delete("v1", "ResourceQuota", "none", site.namespace)


async def _lose_right(site: Site) -> None:
    await site.api.delete("rbac.authorization.k8s.io/v1", "RoleBinding", POLICIES, site.namespace)
    peers = [{"namespaceSelector": {"matchLabels": {"example.org/at": str(int(time.time()))}}}]
    await site.harness.edit(STUCK, {"networkPolicy": {"allowFrom": peers}})


async def _give_right(site: Site) -> None:
    await site.api.apply(binding(site.namespace))


def binding(namespace: str) -> Object:
    """Gives the operator the right in one namespace."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": POLICIES, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": POLICIES},
        "subjects": [{"kind": "ServiceAccount", "namespace": OPERATOR[0], "name": OPERATOR[1]}],
    }


# --- the API server


def _budgets(number: int) -> Act:
    """No PodDisruptionBudget of the site can be written; the one of the stuck cluster is gone."""

    async def begin(site: Site) -> None:
        path = f"/namespaces/{site.namespace}/poddisruptionbudgets"
        site.proxy.rules[site.namespace] = lambda method, asked: number if method != "GET" and path in asked else None
        await site.api.delete("policy/v1", "PodDisruptionBudget", STUCK, site.namespace)

    return begin


async def _budgets_again(site: Site) -> None:
    del site.proxy.rules[site.namespace]


async def _gap(site: Site) -> None:
    """Watches of Ingresses are silent from now on; one of the stuck cluster's is deleted meanwhile."""
    site.proxy.silence("/ingresses", site.namespace)
    await site.api.delete("networking.k8s.io/v1", "Ingress", STUCK, site.namespace)


async def _gap_over(site: Site) -> None:
    """They end, and the events that were missed are too old."""
    site.proxy.resume("/ingresses", site.namespace)


async def _ingress_is_there(site: Site) -> bool:
    found = await site.api.find("networking.k8s.io/v1", "Ingress", STUCK, site.namespace)
    return found is not None and await _is_mended(site)


# --- nodes and workers


def _own_nodes(site: Site) -> Object:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": site.nodes}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    pods = {
        "affinity": {"nodeAffinity": required},
        "tolerations": [{"key": "example.org/own", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {**spread, "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": STUCK}}}
        ],
    }
    return {"podTemplate": {"spec": pods}}


async def _keep_nodes(site: Site) -> None:
    taint = {"key": "example.org/own", "value": site.namespace, "effect": "NoSchedule"}
    for name in site.nodes:
        await site.api.patch("v1", "Node", name, {"spec": {"taints": [taint]}})


async def _lose_node(site: Site) -> None:
    site.harness.kubelet.lose(await _first_node(site))


async def _node_back(site: Site) -> None:
    await site.harness.kubelet.recover(await _first_node(site))


async def _first_node(site: Site) -> str:
    pod = await site.api.get("v1", "Pod", f"{STUCK}-0", site.namespace)
    return str(pod["spec"]["nodeName"])


async def _node_is_named(site: Site) -> bool:
    found = condition(await site.harness.look(STUCK), "Ready")
    return found.get("reason") in ("NodeLost", "WorkerUnreachable") and f"{STUCK}-0" in found["message"]


async def _neighbours(site: Site) -> None:
    for number in range(NEIGHBOURS):
        await site.make(f"neighbour-{number}", every_s=1.0, replicas=1)
    while not await _all_neighbours(site, is_ready):
        await asyncio.sleep(1.0)


async def _all_neighbours(site: Site, holds: Callable[[Object], bool]) -> bool:
    found = await site.api.list(VERSION, KIND, site.namespace)
    mine = [each for each in found if each["metadata"]["name"].startswith("neighbour-")]
    return len(mine) == NEIGHBOURS and all(map(holds, mine))


def _swallow(on: bool) -> Act:
    async def turn(site: Site) -> None:
        for name, workers in site.workers.items():
            if name.startswith("neighbour-"):
                workers.swallow = on

    return turn


async def _neighbours_are_named(site: Site) -> bool:
    return await _all_neighbours(site, lambda it: condition(it, "Stalled").get("reason") == "WorkerUnreachable")


async def _neighbours_are_well(site: Site) -> bool:
    return await _all_neighbours(site, is_ready)


async def _freeze(site: Site) -> None:
    site.workers[STUCK].knobs.outage = DatabaseReport(
        state=DatabaseState.DISCONNECTED, since=None, reason="DatabaseUnreachable", message="no answer within 2 s"
    )


async def _thaw(site: Site) -> None:
    site.workers[STUCK].knobs.outage = None


async def _answer_hugely(site: Site) -> None:
    """A real server answers in the workers' place, with more than any cluster has."""
    secret = await site.api.get("v1", "Secret", f"{STUCK}-internal", site.namespace)
    value = base64.b64decode(secret["data"]["secret"]).decode()

    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(body=b'{"shards": [' + b" " * (ANSWER_MOST + 1) + b"]}", content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site.undo.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=internal_server(value.strip().encode())).start()
    session = await site.undo.enter_async_context(aiohttp.ClientSession())
    address = f"https://127.0.0.1:{runner.addresses[0][1]}"
    site.workers[STUCK].instead = NamedWorkers(session, {f"{STUCK}-{number}": address for number in range(2)}, value)


async def _answer_again(site: Site) -> None:
    site.workers[STUCK].instead = None


# --- a hostile object


async def _store_hostile(site: Site) -> None:
    path = await site.api.path(VERSION, KIND, None, site.namespace)
    body, head = nested_affinity(thread_cluster(HOSTILE), 1_200), {"Content-Type": "application/json"}
    async with site.api._session.post(f"{site.api._server}{path}", data=body, headers=head) as answer:
        assert answer.status == 201, await answer.text()


async def _hostile_is_named(site: Site) -> bool:
    text = await site.text(HOSTILE)
    return "SpecInvalid" in text and "nested deeper than any field" in text


async def _delete_hostile(site: Site) -> None:
    path = await site.api.path(VERSION, KIND, HOSTILE, site.namespace)
    async with site.api._session.delete(f"{site.api._server}{path}") as answer:
        assert answer.status == 200


WEBHOOK_DOWN: Final = Fault(
    name="webhook down",
    prepare=_hook_on_services,
    begin=_hook_ends,
    mend=_hook_answers,
    reason="AdmissionUnavailable",
    says=f"Service {STUCK} is not written",
    stuck=("services", STUCK),
)
KIND_MISSING: Final = Fault(
    name="kind missing",
    begin=_edit({"monitoring": {"serviceMonitor": "Enabled"}}),
    mend=_edit({"monitoring": {"serviceMonitor": "Disabled"}}),
    reason="KindMissing",
    says="ServiceMonitor stuck is not written",
    stuck=("servicemonitors", STUCK),
)
TYPED_PATCH: Final = Fault(
    name="typed-patch error",
    begin=_edit({"podTemplate": {"spec": {"topologySpreadConstraints": _TWICE}}}),
    mend=_edit({"podTemplate": {"spec": {"topologySpreadConstraints": None}}}),
    reason="ChildRejected",
    says="StatefulSet stuck is not written",
    stuck=("statefulsets", STUCK),
)
MUTATING_RULE: Final = Fault(
    name="mutating rule",
    prepare=_hook_rewrites,
    begin=nothing,
    mend=_hook_gone,
    reason="ChangedByAdmission",
    named=_rewritten,
    stuck=("statefulsets", STUCK),
)
QUOTA: Final = Fault(
    name="quota",
    begin=_quota,
    mend=_no_quota,
    reason="QuotaExceeded",
    says="Ingress stuck is not written",
    stuck=("ingresses", STUCK),
)
LOST_RIGHT: Final = Fault(
    name="lost right",
    begin=_lose_right,
    mend=_give_right,
    reason="Forbidden",
    says="NetworkPolicy stuck is not written",
    stuck=("networkpolicies", STUCK),
)
API_429: Final = Fault(
    name="API 429",
    begin=_budgets(429),
    mend=_budgets_again,
    reason="ApiThrottled",
    says="PodDisruptionBudget stuck is not written",
    stuck=("poddisruptionbudgets", STUCK),
)
API_500: Final = Fault(
    name="API 500",
    begin=_budgets(500),
    mend=_budgets_again,
    reason="ApiFailing",
    says="PodDisruptionBudget stuck is not written",
    stuck=("poddisruptionbudgets", STUCK),
)
NODE_SILENT: Final = Fault(
    name="one node silent",
    prepare=_keep_nodes,
    spec=_own_nodes,
    begin=_lose_node,
    mend=_node_back,
    reason="WorkerUnreachable, NodeLost",
    named=_node_is_named,
)
NEIGHBOURS_SILENT: Final = Fault(
    name="40 neighbours silent",
    settle=_neighbours,
    begin=_swallow(True),
    mend=_swallow(False),
    reason="WorkerUnreachable",
    named=_neighbours_are_named,
    mended=_neighbours_are_well,
)
DATABASE_FROZEN: Final = Fault(
    name="database frozen", begin=_freeze, mend=_thaw, reason="DatabaseUnreachable", says="no worker has its database"
)
WATCH_GAP: Final = Fault(
    name="watch gap",
    spec=lambda _: {"gateway": {"ingress": _INGRESS}},
    begin=_gap,
    mend=_gap_over,
    reason="",
    mended=_ingress_is_there,
)
HOSTILE_OBJECT: Final = Fault(
    name="hostile object",
    begin=_store_hostile,
    mend=_delete_hostile,
    reason="SpecInvalid",
    named=_hostile_is_named,
)
HUGE_OWNERSHIP: Final = Fault(
    name="huge ownership",
    begin=_answer_hugely,
    mend=_answer_again,
    reason="WorkerAnswerInvalid",
    says="is none that this operator takes",
)

FAULTS: Final = (
    *(WEBHOOK_DOWN, KIND_MISSING, TYPED_PATCH, MUTATING_RULE, QUOTA, LOST_RIGHT, API_429, API_500, NODE_SILENT),
    *(NEIGHBOURS_SILENT, DATABASE_FROZEN, WATCH_GAP, HOSTILE_OBJECT, HUGE_OWNERSHIP),
)
"""All but the CustomResourceDefinition that comes late, without which there is no ThreadCluster to be stuck."""
