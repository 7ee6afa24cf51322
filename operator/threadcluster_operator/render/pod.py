"""The pods: what they run, what they see, and what they may do, which is little.

Every pod keeps the "restricted" Pod Security Standard, has no token of the Kubernetes API, and writes nothing to its own
file system.  The user's pod template is merged in where it can only add or place; the operator's own fields stay.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from shard_worker.contract_internal import TAKE_OVER_VARIABLE, Variable
from threadcluster_operator.api import EnvVar, ResourcesSpec, SecretKeyRef, Toleration
from threadcluster_operator.render.inputs import MANAGEMENT_PORT, PUBLIC_PORT, RenderInput
from threadcluster_operator.render.objects import Component, Object, labels_of, selector_of
from threadcluster_operator.render.quantities import amount

_SHUTDOWN_S: Final = 15
"""Time of a worker after draining: for its last answers, and to close."""
_LOST_NODE_S: Final = 30
_MOUNTS: Final = "/etc/threadcluster"
_DSN_FILE: Final = "url"
_CA_FILE: Final = "ca.crt"
_REPLICA: Final = "database-replica"
"""The volume of the replica's DSN."""
_OTHER_CONNECTIONS: Final = 5
"""Connections of a worker to Postgres besides those that read: one each for appends, the lease, the reconciler and the read model, and one
spare for a session that is opened as needed: a registration, an unknown outcome, or the answers to a planner."""

SECRET_KEY: Final = "secret"  # noqa: S105 - a key's name
"""The key in the Secret `<name>-internal`, and the file that a worker sees."""

MIGRATION_CONTAINER: Final = "migrate"
"""The container whose end is that of the migration; admission rules may put others beside it."""

_MIGRATION_MOST: Final[Mapping[str, str]] = {"cpu": "500m", "memory": "512Mi"}
"""The most that the migration gets of each resource of a worker: Postgres does the work."""

_TLS_MODES: Final = {"Disable": "disable", "Require": "require", "VerifyFull": "verify-full"}


def pod_template(wanted: RenderInput, component: Component, spec: Object) -> Object:
    """A pod template with the user's metadata, and everything that all pods have in common, around ``spec``."""
    user = wanted.spec.pod_template
    metadata: Object = {"labels": {**user.metadata.labels, **labels_of(wanted, component)}}
    if user.metadata.annotations:
        metadata["annotations"] = dict(user.metadata.annotations)
    common: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **(_own(user.spec.security_context) if user.spec.security_context is not None else {}),
            **({"runAsNonRoot": True} if wanted.restricted else {}),
        },
        "tolerations": _tolerations(user.spec.tolerations),
    }
    if wanted.spec.image_pull_secrets:
        common["imagePullSecrets"] = [{"name": each.name} for each in wanted.spec.image_pull_secrets]
    if user.spec.node_selector:
        common["nodeSelector"] = dict(user.spec.node_selector)
    if user.spec.affinity is not None:
        common["affinity"] = _own(user.spec.affinity)
    if user.spec.priority_class_name is not None:
        common["priorityClassName"] = user.spec.priority_class_name
    if user.spec.service_account_name is not None:
        common["serviceAccountName"] = user.spec.service_account_name
    return {"metadata": metadata, "spec": {**common, **spec}}


def worker_template(wanted: RenderInput) -> Object:
    """The template of the workers' pods."""
    drain = wanted.spec.drain
    write_format = wanted.spec.worker.write_format
    chosen: dict[Variable, str | int] = {} if write_format is None else {Variable.WRITE_FORMAT: write_format}
    readers = wanted.spec.database.max_connections_per_worker - _OTHER_CONNECTIONS
    replica = wanted.spec.database.replica_url_secret_key_ref
    if replica is not None:
        chosen[Variable.REPLICA_DSN_FILE] = f"{_MOUNTS}/{_REPLICA}/{_DSN_FILE}"
    container = {
        **_container(wanted, "worker", ["shard-worker", "run"]),
        "env": [
            _field(Variable.NAME, "metadata.name"),
            _field(Variable.HOST, "status.podIP"),
            *_env(_database_settings(wanted)),
            *_env(
                {
                    Variable.BIND: "::",
                    Variable.PUBLIC_PORT: PUBLIC_PORT,
                    Variable.MANAGEMENT_PORT: MANAGEMENT_PORT,
                    Variable.SECRET_FILE: f"{_MOUNTS}/internal/{SECRET_KEY}",
                    Variable.READ_CONNECTIONS: readers - readers // 2,
                    Variable.QUERY_CONNECTIONS: readers // 2,
                    Variable.DRAIN_SECONDS: drain.timeout_seconds,
                    Variable.PASSIVATION_IDLE_SECONDS: wanted.spec.worker.passivation.idle_seconds,
                    Variable.MAX_RESIDENT_THREADS: wanted.spec.worker.passivation.max_resident_threads,
                    Variable.SNAPSHOT_EVERY_EVENTS: wanted.spec.worker.snapshot_every_events,
                    Variable.LOG_FORMAT: "json",
                    **chosen,
                }
            ),
            *(_user_env(variable) for variable in wanted.spec.worker.env),
        ],
        "ports": [
            {"name": "http", "containerPort": PUBLIC_PORT, "protocol": "TCP"},
            {"name": "management", "containerPort": MANAGEMENT_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/livez", every_s=1, failures=300),
        "readinessProbe": _probe("/readyz", every_s=1, failures=3),
        "livenessProbe": _probe("/livez", every_s=5, failures=4),
        "lifecycle": {
            "preStop": {
                "exec": {"command": ["shard-worker", "leave", "--at-least", str(drain.load_balancer_seconds)]},
            }
        },
    }
    resources = _resources(wanted.spec.worker.resources)
    if resources:
        container["resources"] = resources
    container["volumeMounts"].append(_mount("internal"))
    if replica is not None:
        container["volumeMounts"].append(_mount(_REPLICA))
    spec = {
        "containers": [container],
        "volumes": [
            *_database_volumes(wanted, wanted.spec.database.url_secret_key_ref),
            _secret_volume("internal", wanted.secret, SECRET_KEY, SECRET_KEY),
            *([] if replica is None else [_secret_volume(_REPLICA, replica.name, replica.key, _DSN_FILE)]),
        ],
        "terminationGracePeriodSeconds": drain.timeout_seconds + drain.load_balancer_seconds + _SHUTDOWN_S,
        "topologySpreadConstraints": [_own(each) for each in wanted.spec.pod_template.spec.topology_spread_constraints]
        or _spread(wanted),
    }
    return pod_template(wanted, "worker", spec)


def migration_template(wanted: RenderInput) -> Object:
    """The template of the pod that migrates; its termination message says how it ended (`MigrationFailure`)."""
    database = wanted.spec.database
    message = "/dev/termination-log"
    container = {
        **_container(wanted, MIGRATION_CONTAINER, ["shard-worker", "migrate", "--termination-file", message]),
        "env": _env(_database_settings(wanted)),
        "terminationMessagePath": message,
    }
    if database.take_over is not None:
        container["env"].append({"name": TAKE_OVER_VARIABLE, "value": database.take_over})
    resources = _resources(wanted.spec.worker.resources, _MIGRATION_MOST)
    if resources:
        container["resources"] = resources
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": _database_volumes(wanted, database.migration_url_secret_key_ref or database.url_secret_key_ref),
    }
    return pod_template(wanted, "migration", spec)


def _container(wanted: RenderInput, name: str, command: list[str]) -> Object:
    """The fields of both containers; a new list of mounts each time."""
    made: Object = {
        "name": name,
        "image": wanted.spec.image,
        "command": command,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [_mount("database")],
    }
    if wanted.spec.image_pull_policy is not None:
        made["imagePullPolicy"] = wanted.spec.image_pull_policy
    if wanted.spec.database.tls.ca_config_map_key_ref is not None:
        made["volumeMounts"].append(_mount("database-ca"))
    return made


def _resources(given: ResourcesSpec, most: Mapping[str, str] | None = None) -> Object:
    """The requests and limits of a container; ``most`` names the resources that it gets, and how much of each at most.

    A namespace with a quota demands a request or limit of each resource that the quota counts: the user has named those for
    the workers, and the same are named for the migration.
    """
    found: Object = {}
    for name, amounts in (("requests", given.requests), ("limits", given.limits)):
        kept = (
            dict(amounts)
            if most is None
            else {key: _least(str(amounts[key]), most[key]) for key in amounts if key in most}
        )
        if kept:
            found[name] = kept
    return found


def _least(one: str, other: str) -> str:
    first, second = amount(one), amount(other)
    return other if first is not None and second is not None and second < first else one


def _mount(volume: str) -> Object:
    """A whole folder, never a file in it: only so does the kubelet bring a rotated Secret to a running container."""
    return {"name": volume, "mountPath": f"{_MOUNTS}/{volume}", "readOnly": True}


def _secret_volume(name: str, secret: str, key: str, path: str) -> Object:
    return {"name": name, "secret": {"secretName": secret, "items": [{"key": key, "path": path}]}}


def _database_volumes(wanted: RenderInput, dsn: SecretKeyRef) -> list[Object]:
    volumes: list[Object] = [_secret_volume("database", dsn.name, dsn.key, _DSN_FILE)]
    ca = wanted.spec.database.tls.ca_config_map_key_ref
    if ca is not None:
        items = [{"key": ca.key, "path": _CA_FILE}]
        volumes.append({"name": "database-ca", "configMap": {"name": ca.name, "items": items}})
    return volumes


def _database_settings(wanted: RenderInput) -> dict[Variable, str | int]:
    """The settings of workers and migration alike."""
    tls = wanted.spec.database.tls
    settings: dict[Variable, str | int] = {
        Variable.CLUSTER: wanted.cluster_id,
        Variable.CLUSTER_UID: wanted.uid,
        Variable.CLUSTER_NAME: f"{wanted.namespace}/{wanted.name}",
        Variable.CLUSTER_SITE: wanted.site,
        Variable.SHARDS: wanted.spec.shards,
        Variable.DSN_FILE: f"{_MOUNTS}/database/{_DSN_FILE}",
        Variable.DATABASE_TLS: _TLS_MODES[tls.mode],
    }
    if tls.ca_config_map_key_ref is not None:
        settings[Variable.DATABASE_CA_FILE] = f"{_MOUNTS}/database-ca/{_CA_FILE}"
    return settings


def _env(settings: Mapping[Variable, str | int]) -> list[Object]:
    return [{"name": variable.value, "value": str(value)} for variable, value in settings.items()]


def _field(variable: Variable, path: str) -> Object:
    return {"name": variable.value, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _user_env(variable: EnvVar) -> Object:
    return variable.model_dump(by_alias=True, exclude_defaults=True)


def _probe(path: str, *, every_s: int, failures: int) -> Object:
    """A worker whose loop is busy with a long collection answers late, not never: hence the patience."""
    return {
        "httpGet": {"path": path, "port": MANAGEMENT_PORT, "scheme": "HTTP"},
        "periodSeconds": every_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
        "successThreshold": 1,
    }


def _own(part: BaseModel) -> Object:
    """A part of the spec that is Kubernetes' own, with the fields that the user gave."""
    return part.model_dump(by_alias=True, exclude_none=True)


def _tolerations(users: list[Toleration]) -> list[Object]:
    """The user's, and for a node that is lost, where they say nothing of it: a worker's place is elsewhere, soon."""
    given = {each.key for each in users}
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_S}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in given
    ]
    return [*(_own(each) for each in users), *lost]


def _spread(wanted: RenderInput) -> list[Object]:
    """Over zones, and within them over nodes; where that cannot be, a worker runs all the same."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector_of(wanted.name, "worker")},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]
