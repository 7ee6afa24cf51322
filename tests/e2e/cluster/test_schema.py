"""The CustomResourceDefinition on a real API server: what it takes, what it fills in, and what it refuses and why."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from threadcluster_operator.api import API_VERSION, KIND, parse_spec

from tests.e2e.cluster.build import kubectl
from tests.support.bad_documents import AT_MOST_SHARDS, BAD, GOOD, Bad
from tests.support.kube_api import Api, Refused
from tests.support.paths import LOCAL, SAMPLES
from tests.support.pod_specs import WHOLE_POD_SPEC, nested_affinity

pytestmark = pytest.mark.cluster

CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "threadclusters.threadcluster.io")
IMMUTABLE = "can never be changed"


def cluster(spec: dict[str, Any], name: str = "chat") -> dict[str, Any]:
    """A ThreadCluster as a manifest."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


async def run_kubectl(api: Api, namespace: str, *arguments: str) -> tuple[str, int | None]:
    """The real kubectl's output and exit code."""
    process = await asyncio.create_subprocess_exec(
        *(kubectl(), f"--kubeconfig={api.kubeconfig}", f"--namespace={namespace}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode(), process.returncode


async def test_the_api_server_takes_the_schema(api: Api) -> None:
    """Established, and structural: no condition says otherwise."""
    conditions = (await api.get(*CRD))["status"]["conditions"]
    assert {each["type"]: each["status"] for each in conditions} == {"NamesAccepted": "True", "Established": "True"}


async def test_the_defaults_of_the_server_are_those_of_the_model(api: Api, namespace: str) -> None:
    """The stored values are the operator's defaults; only fields without a default are absent."""
    stored = await api.apply(cluster(GOOD), namespace, dry_run=True)
    assert parse_spec(stored) == parse_spec(cluster(GOOD))
    spec = stored["spec"]
    assert (spec["shards"], spec["replicas"], spec["rollout"]["surge"], spec["paused"]) == (144, 3, 0, False)
    assert spec["database"]["tls"] == {"mode": "VerifyFull"}
    assert "autoscaling" not in spec
    assert "status" not in stored


@pytest.mark.parametrize("path", [path for path in SAMPLES if path != LOCAL], ids=lambda path: path.stem)
async def test_every_sample_is_taken(api: Api, namespace: str, path: Path) -> None:
    """By schema and rules, without an unknown field; nothing of it is lost."""
    for document in yaml.safe_load_all(path.read_text()):
        stored = await api.apply(document, namespace, dry_run=True)
        if document["kind"] == KIND:
            assert parse_spec(stored) == parse_spec(document)


async def test_the_local_sample_is_refused_with_the_missing_fields(api: Api, namespace: str) -> None:
    """Everything else about it is right."""
    with pytest.raises(Refused) as refused:
        await api.apply(yaml.safe_load(LOCAL.read_text()), namespace, dry_run=True)
    causes = refused.value.answer["details"]["causes"]
    assert [(cause["field"], cause["reason"]) for cause in causes] == [
        ("spec.image", "FieldValueRequired"),
        ("spec.database", "FieldValueRequired"),
    ]
    assert all("only the local platform brings its own" in cause["message"] for cause in causes)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_bad_spec_is_refused_with_field_and_reason(api: Api, namespace: str, bad: Bad) -> None:
    """Before it is stored, in the words of the schema or of a rule; what is null here is left out there."""
    spec = {name: value for name, value in bad.spec.items() if value is not None}
    with pytest.raises(Refused) as refused:
        await api.create(cluster(spec), namespace, dry_run=True)
    assert refused.value.status == 422
    causes = {cause["field"]: cause["message"] for cause in refused.value.answer["details"]["causes"]}
    assert bad.reason in causes[bad.field]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("a" * 41, "metadata.name: at most 40 characters", id="41-characters"),
        pytest.param("1st", "a letter first", id="digit-first"),
        pytest.param("a.b", "only lower-case letters, digits and -", id="dot"),
    ],
)
async def test_a_name_that_others_cannot_be_made_of_is_refused(
    api: Api, namespace: str, name: str, reason: str
) -> None:
    """Names of pods and Services are made of it; 40 characters are taken."""
    with pytest.raises(Refused, match=reason):
        await api.apply(cluster(GOOD, name), namespace, dry_run=True)
    await api.apply(cluster(GOOD, "a" * 40), namespace, dry_run=True)


async def test_a_cluster_without_a_spec_is_refused(api: Api, namespace: str) -> None:
    """There is no image to guess."""
    document = cluster({})
    del document["spec"]
    with pytest.raises(Refused, match="spec: Required value"):
        await api.apply(document, namespace, dry_run=True)


async def test_an_unknown_field_is_refused_by_name(api: Api, namespace: str) -> None:
    """As kubectl asks for it, at every depth."""
    with pytest.raises(Refused, match=r"\.spec\.rebalance\.speed: field not declared in schema"):
        await api.apply(cluster({**GOOD, "rebalance": {"speed": 9}}), namespace, dry_run=True)


async def test_what_is_kubernetes_own_is_kept_whole(api: Api, namespace: str) -> None:
    """Every field of it; nothing is added, and quantities stay as they were written."""
    requests = {"cpu": 1, "memory": "1Gi"}
    spec = {**GOOD, "podTemplate": {"spec": WHOLE_POD_SPEC}, "worker": {"resources": {"requests": requests}}}
    stored = await api.apply(cluster(spec), namespace, dry_run=True)
    given = {name: stored["spec"]["podTemplate"]["spec"][name] for name in WHOLE_POD_SPEC}
    assert given == WHOLE_POD_SPEC
    assert stored["spec"]["worker"]["resources"]["requests"] == requests


async def test_no_object_is_deeper_than_the_schema(api: Api, namespace: str) -> None:
    """Nested 1,200 deep: refused where the client asks for it, pruned elsewhere; no watcher ever sees it."""
    manifest = nested_affinity(cluster(GOOD), 1200)
    path = await api.path(API_VERSION, KIND, None, namespace)
    with pytest.raises(Refused, match=r'unknown field "spec\.podTemplate\.spec\.affinity\.deep"'):
        await api.request("POST", path, {"fieldValidation": "Strict"}, manifest)
    stored = await api.request("POST", path, {"fieldValidation": "Ignore"}, manifest)
    assert stored["spec"]["podTemplate"]["spec"]["affinity"] == {}


async def test_an_applied_manifest_is_unchanged_when_it_is_applied_again(
    api: Api, namespace: str, tmp_path: Path
) -> None:
    """Whatever defaults the server fills in: `kubectl apply` says so, and makes no generation."""
    source = {"secretKeyRef": {"name": "token", "key": "value"}}
    blocks = [{"ipBlock": {"cidr": "10.1.0.0/16"}}, {"podSelector": {}}]
    spec = {
        **GOOD,
        "worker": {"env": [{"name": "TOKEN", "valueFrom": source}]},
        "networkPolicy": {"allowFrom": blocks},
        "podTemplate": {"spec": WHOLE_POD_SPEC},
    }
    manifest = tmp_path / "chat.yaml"
    manifest.write_text(yaml.safe_dump(cluster(spec)))
    outputs = [await run_kubectl(api, namespace, "apply", "-f", str(manifest)) for _ in range(2)]
    assert outputs == [(f"threadcluster.threadcluster.io/chat {word}\n", 0) for word in ("created", "unchanged")]


async def test_shards_can_never_be_changed(api: Api, namespace: str) -> None:
    """Not by an edit, and not by leaving out what was given; anything else can."""
    await api.apply(cluster({**GOOD, "shards": 8}), namespace)
    for change in ({"shards": 9}, {"shards": None}):
        with pytest.raises(Refused, match=rf"spec\.shards: .*{IMMUTABLE}"):
            await api.patch(API_VERSION, KIND, "chat", {"spec": change}, namespace)
    changed = await api.patch(API_VERSION, KIND, "chat", {"spec": {"replicas": 2, "shards": 8}}, namespace)
    assert (changed["spec"]["shards"], changed["spec"]["replicas"]) == (8, 2)


async def test_scaling_knows_the_shards(api: Api, namespace: str) -> None:
    """Through /scale, which a HorizontalPodAutoscaler uses, replicas never go beyond them."""
    await api.apply(cluster({**GOOD, "shards": 4, "replicas": 2}), namespace)
    with pytest.raises(Refused, match=rf"spec\.replicas: .*{AT_MOST_SHARDS}"):
        await api.patch(API_VERSION, KIND, "chat", {"spec": {"replicas": 5}}, namespace, sub="scale")
    await api.patch(API_VERSION, KIND, "chat", {"spec": {"replicas": 4}}, namespace, sub="scale")
    assert (await api.get(API_VERSION, KIND, "chat", namespace))["spec"]["replicas"] == 4


async def test_scale_shows_the_status(api: Api, namespace: str) -> None:
    """How many there are, and by which labels they are found."""
    await api.apply(cluster(GOOD), namespace)
    status = {"replicas": 2, "selector": "app.kubernetes.io/instance=chat"}
    await api.patch(API_VERSION, KIND, "chat", {"status": status}, namespace, sub="status")
    scale = await api.get(API_VERSION, KIND, "chat", namespace, sub="scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 3}, status)


async def test_kubectl_scales_and_says_why_not(api: Api, namespace: str) -> None:
    """The user sees the rule's own words."""
    await api.apply(cluster({**GOOD, "shards": 4}), namespace)
    assert await run_kubectl(api, namespace, "scale", "thr/chat", "--replicas=4") == (
        "threadcluster.threadcluster.io/chat scaled\n",
        0,
    )
    output, ended = await run_kubectl(api, namespace, "scale", "thr/chat", "--replicas=5")
    assert ended == 1
    assert "spec.replicas" in output
    assert AT_MOST_SHARDS in output


async def test_kubectl_explains_defaults_and_limits(api: Api, namespace: str) -> None:
    """In the descriptions, which is all that kubectl shows of them."""
    for field, end in (
        ("spec.shards", "Default: 144. Allowed: 1 to 4096."),
        ("spec.rebalance.maxConcurrentMoves", "Default: 4. Allowed: 1 to 256."),
        ("spec.worker.env.name", "characters."),
    ):
        output, ended = await run_kubectl(api, namespace, "explain", f"thr.{field}")
        assert ended == 0, output
        assert " ".join(output.split()).endswith(end)


async def test_status_is_apart_from_spec(api: Api, namespace: str) -> None:
    """Neither endpoint changes the other's part, and only an edit of spec makes a new generation."""
    stored = await api.apply(cluster(GOOD), namespace)
    await api.patch(API_VERSION, KIND, "chat", {"status": {"replicas": 7}}, namespace)
    await api.patch(API_VERSION, KIND, "chat", {"spec": {"replicas": 7}}, namespace, sub="status")
    found = await api.get(API_VERSION, KIND, "chat", namespace)
    assert (found["spec"]["replicas"], found.get("status")) == (3, None)
    assert found["metadata"]["generation"] == stored["metadata"]["generation"] == 1


STATUS = {
    "observedGeneration": 1,
    "desiredReplicas": 3,
    "replicas": 3,
    "readyReplicas": 2,
    "readyWorkers": "2/3",
    "updatedReplicas": 3,
    "image": "threadcluster:1",
    "endpoint": "http://chat.test.svc:80",
    "shards": {"total": 144, "assigned": 140, "moving": 4, "imbalancePercent": 6},
    "plan": {"hash": "9f2c61d0a4be7733", "pendingMoves": 12},
    "workers": [{"name": f"chat-{number}", "state": "Ready", "shards": "0-3,7"} for number in range(3)],
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "ShardsUnserved",
            "message": "4 of 144 shards are not served",
            "lastTransitionTime": "2026-05-01T12:00:00Z",
            "observedGeneration": 1,
        }
    ],
}


async def test_a_whole_status_is_kept_as_it_is_written(api: Api, namespace: str) -> None:
    """The server adds no defaults to it, so that what was written can be compared with what is there."""
    await api.apply(cluster(GOOD), namespace)
    stored = await api.patch(API_VERSION, KIND, "chat", {"status": STATUS}, namespace, sub="status")
    assert stored["status"] == STATUS


@pytest.mark.parametrize(
    ("status", "field"),
    [
        pytest.param({"workers": [{"name": "a"}, {"name": "a"}]}, r"status\.workers\[1\]", id="worker-twice"),
        pytest.param({"replicas": -1}, r"status\.replicas", id="negative"),
        pytest.param({"workers": [{"name": f"a-{n}"} for n in range(257)]}, r"status\.workers", id="many-workers"),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "Maybe", "reason": "Stalled"}]},
            r"status\.conditions\[0\]\.status",
            id="condition",
        ),
    ],
)
async def test_a_wrong_status_is_refused(api: Api, namespace: str, status: dict[str, Any], field: str) -> None:
    """A fault of the operator shows itself at once."""
    await api.apply(cluster(GOOD), namespace)
    with pytest.raises(Refused, match=field):
        await api.patch(API_VERSION, KIND, "chat", {"status": status}, namespace, sub="status")


async def test_what_kubectl_shows(api: Api, namespace: str) -> None:
    """By the short name, in the category `all`, and wide."""
    await api.apply(cluster(GOOD), namespace)
    await api.patch(API_VERSION, KIND, "chat", {"status": STATUS}, namespace, sub="status")
    narrow, _ = await run_kubectl(api, namespace, "get", "thr")
    heads, row = (line.split() for line in narrow.splitlines())
    assert heads == ["NAME", "READY", "WORKERS", "SHARDS", "MOVING", "AGE"]
    assert row[:5] == ["chat", "False", "2/3", "140", "4"]
    wide, _ = await run_kubectl(api, namespace, "get", "thr", "-o", "wide")
    heads, row = (line.split() for line in wide.splitlines())
    assert dict(zip(heads, row, strict=True)) | {"AGE": ""} == {
        "NAME": "chat",
        "READY": "False",
        "WORKERS": "2/3",
        "SHARDS": "140",
        "MOVING": "4",
        "IMAGE": "threadcluster:1",
        "REASON": "ShardsUnserved",
        "IMBALANCE": "6",
        "AGE": "",
    }
    output, _ = await run_kubectl(api, namespace, "get", "all")
    assert "threadcluster.threadcluster.io/chat" in output


async def test_kubectl_explains(api: Api, namespace: str) -> None:
    """Fields have the model's sentences."""
    output, ended = await run_kubectl(api, namespace, "explain", "threadcluster.spec.database.tls")
    assert ended == 0
    assert "the server proves by its certificate" in " ".join(output.split())
