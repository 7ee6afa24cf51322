"""Clusters to make objects for: one that says the least, one that says everything."""

from typing import Any

from threadcluster_operator.api import parse_spec
from threadcluster_operator.render import Object, RenderInput, children, internal_secrets, migration_job

Document = dict[str, Any]  # YAML

LEAST: Document = {"image": "threadcluster:1", "database": {"urlSecretKeyRef": {"name": "chat-db"}}}

EVERYTHING: Document = {
    "shards": 64,
    "replicas": 5,
    "image": "registry.example/threadcluster:1.2.3",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "database": {
        "urlSecretKeyRef": {"name": "chat-db", "key": "worker"},
        "migrationURLSecretKeyRef": {"name": "chat-db", "key": "owner"},
        "replicaURLSecretKeyRef": {"name": "chat-db", "key": "replica"},
        "clusterID": "Chat.Production",
        "tls": {"mode": "Require", "caConfigMapKeyRef": {"name": "database-ca"}},
        "maxConnectionsPerWorker": 12,
    },
    "worker": {
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "env": [
            {"name": "TZ", "value": "UTC"},
            {"name": "EMPTY", "value": ""},
            {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "some", "key": "thing", "optional": True}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "passivation": {"idleSeconds": 60, "maxResidentThreads": 500},
        "snapshotEveryEvents": 50,
    },
    "rollout": {"minReadySeconds": 11},
    "drain": {"timeoutSeconds": 40, "loadBalancerSeconds": 20},
    "gateway": {
        "service": {
            "type": "LoadBalancer",
            "port": 8443,
            "annotations": {"service.kubernetes.io/aws-load-balancer-scheme": "internal"},
            "loadBalancerClass": "service.k8s.aws/nlb",
        },
        "ingress": {
            "className": "nginx",
            "host": "chat.example.com",
            "tlsSecretName": "chat-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60"},
        },
    },
    "networkPolicy": {
        "mode": "Full",
        "allowFrom": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}],
        "egressTo": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}],
    },
    "podTemplate": {
        "metadata": {"labels": {"team": "chat"}, "annotations": {"example.com/note": "kept"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/arch": "arm64"},
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]
                    }
                }
            },
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "chat", "effect": "NoSchedule"}],
            "topologySpreadConstraints": [
                {
                    "maxSkew": 2,
                    "topologyKey": "rack",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": "chat"}},
                }
            ],
            "priorityClassName": "high",
            "serviceAccountName": "chat",
            "securityContext": {"runAsUser": 1234},
        },
    },
    "monitoring": {"serviceMonitor": "Enabled"},
}


def cluster(spec: Document | None = None, **changes: Any) -> RenderInput:
    """A cluster called ``chat`` of this spec, the least one by default."""
    parsed = parse_spec({"spec": LEAST if spec is None else spec})
    made = RenderInput(
        name="chat",
        namespace="talk",
        uid="8f4c3b7a-0000-4000-8000-000000000001",
        spec=parsed,
        replicas=parsed.replicas,
        partition=0,
        operator_namespace="threadcluster-system",
        site="5b1d2c6e-0000-4000-8000-000000000002",
    )
    return made._replace(**changes)


def least(**changes: Any) -> RenderInput:
    """A cluster of the least spec, with changes of top-level fields."""
    return cluster({**LEAST, **changes})


def all_objects(wanted: RenderInput) -> list[Object]:
    """Everything that is made for a cluster."""
    return [migration_job(wanted), *internal_secrets(wanted, "of the workers\n", "of users\n"), *children(wanted)]


def find(wanted: RenderInput, kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and a name."""
    [found] = [
        each
        for each in all_objects(wanted)
        if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    ]
    return found


def pod_spec(wanted: RenderInput) -> Object:
    """The workers' pod spec."""
    spec: Object = find(wanted, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def environment(container: Object) -> dict[str, Any]:
    """A container's variables."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
