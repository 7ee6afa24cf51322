"""Invalid specs, with the field and the reason that every refusal must name.

One table for all three checkers: the API server, the operator and the local platform.
"""

from typing import Any, NamedTuple

import yaml

GOOD: dict[str, Any] = {"image": "threadcluster:1", "database": {"urlSecretKeyRef": {"name": "db"}}}
"""The least spec that Kubernetes takes."""

AT_MOST_SHARDS = "must not be more than shards"
ONE_SOURCE = "exactly one of secretKeyRef, configMapKeyRef, fieldRef is wanted"
PEER = "either ipBlock or selectors are wanted, not both and not neither"
ENUM = "Unsupported value"
PATTERN = "should match"


class Bad(NamedTuple):
    """A spec that is wrong in one place."""

    text: str
    """In YAML; it is laid over `GOOD`."""
    field: str
    """As the API server writes it."""
    reason: str
    """Of the API server."""
    own_reason: str | None = None
    """Of the model, where pydantic says it in other words."""
    local: bool = True
    """Whether it is wrong on the local platform too."""

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as an object."""
        return {**GOOD, **yaml.safe_load(self.text)}

    @property
    def own_field(self) -> str:
        """The field as the model writes it."""
        return self.field.replace("[", ".").replace("]", "")


def _many(count: int, item: str) -> str:
    return ", ".join(item.replace("#", str(number)) for number in range(count))


BAD = {
    # Invalid single fields.
    "no-shards": Bad("shards: 0", "spec.shards", "should be greater than or equal to 1"),
    "too-many-shards": Bad("shards: 4097", "spec.shards", "should be less than or equal to 4096"),
    "shards-as-text": Bad("shards: many", "spec.shards", "must be of type integer"),
    "fewer-than-no-replicas": Bad("replicas: -1", "spec.replicas", "should be greater than or equal to 0"),
    "too-many-replicas": Bad("{shards: 300, replicas: 257}", "spec.replicas", "less than or equal to 256"),
    "half-a-replica": Bad("replicas: 1.5", "spec.replicas", "must be of type integer"),
    "image-with-a-blank": Bad("image: 'a b'", "spec.image", PATTERN),
    "empty-image": Bad("image: ''", "spec.image", "at least 1 char"),
    "pull-policy": Bad("imagePullPolicy: Sometimes", "spec.imagePullPolicy", ENUM),
    "paused-as-text": Bad("paused: 'true'", "spec.paused", "must be of type boolean"),
    "no-secret": Bad("database: {}", "spec.database.urlSecretKeyRef", "Required value"),
    "secret-without-name": Bad(
        "database: {urlSecretKeyRef: {key: url}}",
        "spec.database.urlSecretKeyRef.name",
        "Required value",
    ),
    "secret-with-a-wrong-name": Bad(
        "database: {urlSecretKeyRef: {name: My_Secret}}", "spec.database.urlSecretKeyRef.name", PATTERN
    ),
    "replica-without-name": Bad(
        "database: {urlSecretKeyRef: {name: db}, replicaURLSecretKeyRef: {key: url}}",
        "spec.database.replicaURLSecretKeyRef.name",
        "Required value",
    ),
    "tls-mode": Bad(
        "database: {urlSecretKeyRef: {name: db}, tls: {mode: Prefer}}",
        "spec.database.tls.mode",
        ENUM,
    ),
    "too-few-connections": Bad(
        "database: {urlSecretKeyRef: {name: db}, maxConnectionsPerWorker: 6}",
        "spec.database.maxConnectionsPerWorker",
        "greater than or equal to 7",
    ),
    "quantity": Bad(
        "worker: {resources: {requests: {cpu: half}}}",
        "spec.worker.resources.requests.cpu",
        PATTERN,
        "a quantity is wanted",
    ),
    "quantity-below-nothing": Bad(
        "worker: {resources: {limits: {memory: -1}}}",
        "spec.worker.resources.limits.memory",
        "greater than or equal to 0",
        "a quantity is wanted",
    ),
    "quantity-as-a-fraction": Bad(
        "worker: {resources: {requests: {cpu: 0.5}}}",
        "spec.worker.resources.requests.cpu",
        "must be of type integer,string",
        "a quantity is wanted",
    ),
    "too-much-environment": Bad(
        f"worker: {{env: [{_many(65, '{name: A#, value: x}')}]}}",
        "spec.worker.env",
        "must have at most 64 items",
    ),
    "idle-for-no-time": Bad(
        "worker: {passivation: {idleSeconds: 0}}", "spec.worker.passivation.idleSeconds", "greater than or equal to 1"
    ),
    "rebalance-mode": Bad("rebalance: {mode: auto}", "spec.rebalance.mode", ENUM),
    "no-moves": Bad(
        "rebalance: {maxConcurrentMoves: 0}", "spec.rebalance.maxConcurrentMoves", "greater than or equal to 1"
    ),
    "threshold": Bad(
        "rebalance: {imbalanceThresholdPercent: 101}",
        "spec.rebalance.imbalanceThresholdPercent",
        "less than or equal to 100",
    ),
    "surge": Bad("rollout: {surge: 2}", "spec.rollout.surge", ENUM),
    "drain-for-ever": Bad("drain: {timeoutSeconds: 601}", "spec.drain.timeoutSeconds", "less than or equal to 600"),
    "port": Bad("gateway: {service: {port: 65536}}", "spec.gateway.service.port", "less than or equal to 65535"),
    "host": Bad("gateway: {ingress: {host: 'http://x'}}", "spec.gateway.ingress.host", PATTERN),
    "label": Bad("podTemplate: {metadata: {labels: {team: 'a b'}}}", "spec.podTemplate.metadata.labels.team", PATTERN),
    "service-monitor": Bad("monitoring: {serviceMonitor: Maybe}", "spec.monitoring.serviceMonitor", ENUM),
    # Invalid combinations of fields.
    "no-image": Bad(
        "image: null", "spec.image", "only the local platform brings its own", "must be of type string", local=False
    ),
    "no-database": Bad(
        "database: null",
        "spec.database",
        "only the local platform brings its own",
        "must be of type object",
        local=False,
    ),
    "more-replicas-than-shards": Bad("{shards: 2, replicas: 3}", "spec.replicas", AT_MOST_SHARDS),
    "more-replicas-than-shards-by-default": Bad("shards: 2", "spec.replicas", AT_MOST_SHARDS),
    "pin-of-no-shard": Bad(
        "rebalance: {pins: [{shard: 144, worker: chat-0}]}",
        "spec.rebalance.pins",
        "a pinned shard does not exist",
        "the cluster has shards 0 to 143",
    ),
    "pinned-twice": Bad(
        "rebalance: {pins: [{shard: 1, worker: chat-0}, {shard: 1, worker: chat-1}]}",
        "spec.rebalance.pins[1]",
        "Duplicate value",
        "item 0 has this shard already",
    ),
    "autoscaling-range": Bad(
        "autoscaling: {minReplicas: 5, maxReplicas: 4, targetCommandsPerSecond: 1}",
        "spec.autoscaling.minReplicas",
        "minReplicas must not be more than maxReplicas",
    ),
    "autoscaling-for-nothing": Bad(
        "autoscaling: {minReplicas: 1, maxReplicas: 4}",
        "spec.autoscaling",
        "at least one of targetCommandsPerSecond and targetCPUUtilizationPercent is wanted",
    ),
    "autoscaling-without-end": Bad(
        "autoscaling: {minReplicas: 1, targetCommandsPerSecond: 1}",
        "spec.autoscaling.maxReplicas",
        "Required value",
    ),
    "autoscaling-beyond-shards": Bad(
        "{shards: 3, autoscaling: {minReplicas: 1, maxReplicas: 4, targetCommandsPerSecond: 1}}",
        "spec.autoscaling.maxReplicas",
        AT_MOST_SHARDS,
    ),
    "own-environment": Bad(
        "worker: {env: [{name: SHARD_WORKER_NAME, value: x}]}",
        "spec.worker.env[0].name",
        "names that begin with SHARD_WORKER_ are the operator's own",
    ),
    "environment-twice": Bad(
        "worker: {env: [{name: A, value: x}, {name: A, value: y}]}",
        "spec.worker.env[1]",
        "Duplicate value",
        "item 0 has this name already",
    ),
    "value-and-source": Bad(
        "worker: {env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}",
        "spec.worker.env[0]",
        "exactly one of value and valueFrom is wanted",
    ),
    "neither-value-nor-source": Bad(
        "worker: {env: [{name: A}]}", "spec.worker.env[0]", "exactly one of value and valueFrom is wanted"
    ),
    "two-sources": Bad(
        "worker: {env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}, configMapKeyRef: {name: a, key: b}}}]}",
        "spec.worker.env[0].valueFrom",
        ONE_SOURCE,
    ),
    "no-source": Bad("worker: {env: [{name: A, valueFrom: {}}]}", "spec.worker.env[0].valueFrom", ONE_SOURCE),
    "ca-in-the-clear": Bad(
        "database: {urlSecretKeyRef: {name: db}, tls: {mode: Disable, caConfigMapKeyRef: {name: ca}}}",
        "spec.database.tls.caConfigMapKeyRef",
        "a CA has no use while mode is Disable",
    ),
    "class-of-no-load-balancer": Bad(
        "gateway: {service: {loadBalancerClass: x/y}}",
        "spec.gateway.service.loadBalancerClass",
        "loadBalancerClass is for type LoadBalancer alone",
    ),
    "closed-to-the-database": Bad(
        "networkPolicy: {mode: Full}", "spec.networkPolicy.egressTo", "mode Full closes the way to the database"
    ),
    "peer-of-both-kinds": Bad(
        "networkPolicy: {allowFrom: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
        "spec.networkPolicy.allowFrom[0]",
        PEER,
    ),
    "peer-of-no-kind": Bad("networkPolicy: {allowFrom: [{}]}", "spec.networkPolicy.allowFrom[0]", PEER),
    "affinity-misspelt": Bad(
        "podTemplate: {spec: {affinity: {podAntiAffinity: {REQUIRED: [{labelSelector: {}}]}}}}".replace(
            "REQUIRED", "requiredDuringSchedulingIgnoredDuringExecution"
        ),
        "spec.podTemplate.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
        "Required value",
    ),
    "affinity-of-another-type": Bad(
        "podTemplate: {spec: {affinity: {nodeAffinity: [{weight: 1}]}}}",
        "spec.podTemplate.spec.affinity.nodeAffinity",
        "must be of type object",
    ),
    "label-values-without-need": Bad(
        "networkPolicy: {allowFrom: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}",
        "spec.networkPolicy.allowFrom[0].podSelector.matchExpressions[0].values",
        "values are for In and NotIn, which need at least one",
    ),
    "node-values-missing": Bad(
        "podTemplate: {spec: {affinity: {nodeAffinity: {REQUIRED: {nodeSelectorTerms: [TERM]}}}}}".replace(
            "REQUIRED", "requiredDuringSchedulingIgnoredDuringExecution"
        ).replace("TERM", "{matchExpressions: [{key: a, operator: Gt}]}"),
        "spec.podTemplate.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
        ".matchExpressions[0].values",
        "values are for In, NotIn, Gt and Lt, which need at least one",
    ),
    "toleration-of-nothing": Bad(
        "podTemplate: {spec: {tolerations: [{effect: NoSchedule}]}}",
        "spec.podTemplate.spec.tolerations[0].operator",
        "without a key, which is every taint, operator must be Exists",
    ),
    "toleration-of-a-value": Bad(
        "podTemplate: {spec: {tolerations: [{key: a, operator: Exists, value: b}]}}",
        "spec.podTemplate.spec.tolerations[0].value",
        "operator Exists has no value",
    ),
    "toleration-for-a-time": Bad(
        "podTemplate: {spec: {tolerations: [{key: a, tolerationSeconds: 5}]}}",
        "spec.podTemplate.spec.tolerations[0].tolerationSeconds",
        "tolerationSeconds is for effect NoExecute alone",
    ),
    "spread-over-domains": Bad(
        "podTemplate: {spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, minDomains: 2, ELSE}]}}".replace(
            "ELSE", "whenUnsatisfiable: ScheduleAnyway"
        ),
        "spec.podTemplate.spec.topologySpreadConstraints[0].minDomains",
        "minDomains is for whenUnsatisfiable DoNotSchedule alone",
    ),
    "profile-without-a-name": Bad(
        "podTemplate: {spec: {securityContext: {seccompProfile: {type: Localhost}}}}",
        "spec.podTemplate.spec.securityContext.seccompProfile.localhostProfile",
        "localhostProfile is for type Localhost, which needs one",
    ),
    "pull-secret-twice": Bad(
        "imagePullSecrets: [{name: a}, {name: a}]",
        "spec.imagePullSecrets[1]",
        "Duplicate value",
        "item 0 has this name already",
    ),
}
