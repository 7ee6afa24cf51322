"""The pods: restricted, without a token, and the operator's whatever the user's template says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.render import RenderInput, selector_of

from shard_worker.contract_internal import ENVIRONMENT_PREFIX
from shard_worker.settings import WorkerSettings
from tests.support.rendered_clusters import EVERYTHING, LEAST, cluster, environment, find, least, pod_spec

BOTH = pytest.mark.parametrize("wanted", [cluster(), cluster(EVERYTHING)], ids=["least", "everything"])


@BOTH
@pytest.mark.parametrize("kind", ["StatefulSet", "Job"])
def test_pods_keep_the_restricted_standard(wanted: RenderInput, kind: str) -> None:
    """No root, no privileges, no capabilities, the default seccomp profile; and nothing is written to their files."""
    spec = find(wanted, kind)["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {*spec} & {"hostNetwork", "hostPID", "hostIPC"} == set()
    assert all({"secret", "configMap"} & {*volume} for volume in spec["volumes"])


@BOTH
def test_every_setting_is_one_that_the_worker_knows(wanted: RenderInput) -> None:
    """A misspelt variable would be ignored in silence."""
    [container] = pod_spec(wanted)["containers"]
    given_names = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower()
        for name in environment(container)
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    assert given_names <= set(WorkerSettings.model_fields)


@BOTH
def test_the_settings_make_a_worker(wanted: RenderInput, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files in their places, and the fields of the pod filled in, they are accepted."""
    [container] = pod_spec(wanted)["containers"]
    for name, content in (
        ("database/url", "postgresql://h/d"),
        ("internal/secret", "x" * 32),
        ("database-ca/ca.crt", ""),
        ("database-replica/url", "postgresql://replica/d"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    fields = {"metadata.name": "chat-0", "status.podIP": "fd00::7"}
    for name, value in environment(container).items():
        if name.startswith(ENVIRONMENT_PREFIX):
            text = value if isinstance(value, str) else fields[value["fieldRef"]["fieldPath"]]
            monkeypatch.setenv(name, text.replace("/etc/threadcluster", str(tmp_path)))
    settings = WorkerSettings()
    assert (settings.name, settings.host, settings.bind) == ("chat-0", "fd00::7", "::")
    assert settings.cluster == wanted.cluster_id
    assert settings.shards == wanted.spec.shards
    assert settings.drain_seconds == wanted.spec.drain.timeout_seconds
    connections = settings.read_connections + settings.query_connections + 5
    assert connections == wanted.spec.database.max_connections_per_worker
    replica = wanted.spec.database.replica_url_secret_key_ref
    assert settings.replica == (None if replica is None else tmp_path / "database-replica" / "url")


def test_few_connections_leave_one_to_read_with() -> None:
    """As few as the resource allows."""
    spec = {**LEAST, "database": {**LEAST["database"], "maxConnectionsPerWorker": 7}}
    [container] = pod_spec(cluster(spec))["containers"]
    assert environment(container)["SHARD_WORKER_READ_CONNECTIONS"] == "1"
    assert environment(container)["SHARD_WORKER_QUERY_CONNECTIONS"] == "1"


def test_the_replica_s_dsn_is_mounted_for_workers_alone() -> None:
    """As a folder, so that a rotated password reaches them; the migration has no use for it."""
    spec = pod_spec(cluster(EVERYTHING))
    secret = {"secretName": "chat-db", "items": [{"key": "replica", "path": "url"}]}
    assert {"name": "database-replica", "secret": secret} in spec["volumes"]
    [container] = spec["containers"]
    mount = {"name": "database-replica", "mountPath": "/etc/threadcluster/database-replica", "readOnly": True}
    assert mount in container["volumeMounts"]
    migration = find(cluster(EVERYTHING), "Job")["spec"]["template"]["spec"]
    assert "database-replica" not in [volume["name"] for volume in migration["volumes"]]


@pytest.mark.parametrize(("worker", "given"), [({}, None), ({"writeFormat": 2}, "2")], ids=["unset", "set"])
def test_the_journal_format_is_the_workers_own_choice_until_it_is_set(
    worker: dict[str, Any], given: str | None
) -> None:
    """Unset, a release writes what the one before it reads."""
    [container] = pod_spec(cluster({**LEAST, "worker": worker}))["containers"]
    assert environment(container).get("SHARD_WORKER_WRITE_FORMAT") == given


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"value": ""}, {"value": ""}),
        ({"value": "a", "valueFrom": None}, {"value": "a"}),
        (
            {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}, "fieldRef": None}},
            {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ),
        (
            {"valueFrom": {"configMapKeyRef": {"name": "s", "key": "k", "optional": False}}},
            {"valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
        ),
    ],
    ids=["empty", "a null", "a null source", "a default"],
)
def test_a_variable_is_written_without_what_is_left_out(given: dict[str, Any], made: dict[str, Any]) -> None:
    """A field that Kubernetes fills in, or a null, would be another template: the workers would restart."""
    [container] = pod_spec(least(worker={"env": [{"name": "A", **given}]}))["containers"]
    assert container["env"][-1] == {"name": "A", **made}


def test_secrets_are_files_that_follow_their_secret() -> None:
    """Whole folders are mounted, no single files: those would keep a rotated password from the container."""
    spec = pod_spec(cluster(EVERYTHING))
    [container] = spec["containers"]
    assert all("subPath" not in mount for mount in container["volumeMounts"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    assert sources["database"]["secret"] == {"secretName": "chat-db", "items": [{"key": "worker", "path": "url"}]}
    assert sources["internal"]["secret"]["secretName"] == "chat-internal"
    assert sources["database-ca"]["configMap"]["name"] == "database-ca"


def test_a_worker_leaves_before_its_sigterm() -> None:
    """The hook has all the time that shards and load balancers may take, and the end of the process what it takes."""
    spec = pod_spec(cluster(EVERYTHING))
    [container] = spec["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["shard-worker", "leave", "--at-least", "20"]
    assert spec["terminationGracePeriodSeconds"] == 40 + 20 + 15


@BOTH
def test_probes_ask_the_management_port(wanted: RenderInput) -> None:
    """A worker that waits for Postgres has minutes to start; a stuck worker is restarted."""
    [container] = pod_spec(wanted)["containers"]
    asked = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {probe["httpGet"]["port"] for probe in asked.values()} == {8081}
    assert {name: probe["httpGet"]["path"] for name, probe in asked.items()} == {
        "startup": "/livez",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert asked["startup"]["periodSeconds"] * asked["startup"]["failureThreshold"] >= 120


def test_workers_are_spread_where_the_user_says_nothing() -> None:
    """Over zones, then nodes, and never so that one does not run; the user's own constraints replace that."""
    constraints = pod_spec(cluster())["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {each["whenUnsatisfiable"] for each in constraints} == {"ScheduleAnyway"}
    assert [each["topologyKey"] for each in pod_spec(cluster(EVERYTHING))["topologySpreadConstraints"]] == ["rack"]


def test_a_lost_node_is_borne_for_30_s_unless_the_user_says_otherwise() -> None:
    """Only what the user does not speak of is added."""
    own = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 5,
    }
    tolerations = pod_spec(least(podTemplate={"spec": {"tolerations": [own]}}))["tolerations"]
    assert [(each["key"], each["tolerationSeconds"]) for each in tolerations] == [
        ("node.kubernetes.io/unreachable", 5),
        ("node.kubernetes.io/not-ready", 30),
    ]


LABELS = st.dictionaries(
    st.sampled_from([*selector_of("chat", "worker"), "app.kubernetes.io/managed-by", "team", "app"]),
    st.sampled_from(["", "mine", "worker"]),
)


@given(labels=LABELS, context=st.sampled_from([None, {}, {"runAsUser": 0}, {"fsGroup": 7, "runAsNonRoot": True}]))
def test_no_pod_template_breaks_what_the_operator_needs(labels: dict[str, str], context: object) -> None:
    """The user's labels cannot take a pod out of its Services; the container's own limits stay."""
    template: dict[str, Any] = {"metadata": {"labels": labels}, "spec": {}}
    if context is not None:
        template["spec"]["securityContext"] = context
    wanted = least(podTemplate=template)
    workers = find(wanted, "StatefulSet")["spec"]
    own = workers["template"]["metadata"]["labels"]
    assert own.items() >= workers["selector"]["matchLabels"].items()
    assert own.items() >= find(wanted, "Service", "chat")["spec"]["selector"].items()
    assert {key: own[key] for key in labels if key in ("team", "app")} == {
        key: value for key, value in labels.items() if key in ("team", "app")
    }
    assert workers["template"]["spec"]["containers"] == pod_spec(cluster())["containers"]


@given(replicas=st.integers(0, 256), partition=st.integers(0, 256))
def test_a_step_of_the_planner_changes_no_pod(replicas: int, partition: int) -> None:
    """Number and partition are beside the template."""
    wanted = cluster(replicas=replicas, partition=partition)
    spec = find(wanted, "StatefulSet")["spec"]
    assert spec["replicas"] == replicas
    assert spec["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"partition": partition, "maxUnavailable": 1000},
    }
    assert spec["template"] == find(cluster(), "StatefulSet")["spec"]["template"]


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 7},
        {"rebalance": {"mode": "Paused"}},
        {"gateway": {"service": {"port": 81}}},
        {"networkPolicy": {"mode": "Off"}},
        {"rollout": {"minReadySeconds": 9}},
        {"monitoring": {"serviceMonitor": "Enabled"}},
        {"paused": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_outside_the_pods_restarts_none(change: dict[str, Any]) -> None:
    """Nor is the schema migrated again for it."""
    assert find(least(**change), "StatefulSet")["spec"]["template"] == pod_template_of(cluster())
    assert find(least(**change), "Job") == find(cluster(), "Job")


def pod_template_of(wanted: RenderInput) -> Any:
    """The workers' template."""
    return find(wanted, "StatefulSet")["spec"]["template"]


def test_the_restricted_standard_wins_unless_the_operator_allows_more() -> None:
    """Over what the user's security context says."""
    template = {"spec": {"securityContext": {"runAsNonRoot": False, "runAsUser": 5}}}
    asked = least(podTemplate=template)
    for wanted, not_root in ((asked, True), (asked._replace(restricted=False), False)):
        for kind in ("StatefulSet", "Job"):
            context = find(wanted, kind)["spec"]["template"]["spec"]["securityContext"]
            assert context["runAsNonRoot"] is not_root
            assert context["runAsUser"] == 5
    unsaid = least()._replace(restricted=False)
    assert find(unsaid, "StatefulSet")["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
