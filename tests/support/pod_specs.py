"""Parts of a PodSpec with every field that a ThreadCluster takes, as Kubernetes would accept them."""

import json
from typing import Any

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
PODS = {
    "labelSelector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["cold"]},
            {"key": "team", "operator": "Exists"},
        ],
    },
    "namespaces": ["web"],
    "namespaceSelector": {},
    "topologyKey": "kubernetes.io/hostname",
    "matchLabelKeys": ["pod-template-hash"],
    "mismatchLabelKeys": ["tenant"],
}
NODES = {
    "matchExpressions": [{"key": "disk", "operator": "Gt", "values": ["100"]}, {"key": "gpu", "operator": "Exists"}],
    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}],
}
WHOLE_POD_SPEC: dict[str, Any] = {
    "affinity": {
        "nodeAffinity": {
            REQUIRED: {"nodeSelectorTerms": [NODES]},
            PREFERRED: [{"weight": 1, "preference": NODES}],
        },
        "podAffinity": {REQUIRED: [PODS], PREFERRED: [{"weight": 100, "podAffinityTerm": PODS}]},
        "podAntiAffinity": {REQUIRED: [PODS], PREFERRED: [{"weight": 50, "podAffinityTerm": PODS}]},
    },
    "tolerations": [
        {"operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 0},
    ],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "rack",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": PODS["labelSelector"],
            "minDomains": 2,
            "nodeAffinityPolicy": "Honor",
            "nodeTaintsPolicy": "Ignore",
            "matchLabelKeys": ["pod-template-hash"],
        }
    ],
    "securityContext": {
        "runAsUser": 1,
        "runAsGroup": 2,
        "runAsNonRoot": True,
        "fsGroup": 3,
        "fsGroupChangePolicy": "OnRootMismatch",
        "supplementalGroups": [4],
        "supplementalGroupsPolicy": "Strict",
        "seccompProfile": {"type": "Localhost", "localhostProfile": "chat.json"},
        "appArmorProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"level": "s0", "role": "r", "type": "t", "user": "u"},
        "seLinuxChangePolicy": "MountOption",
        "sysctls": [{"name": "net.core.somaxconn", "value": "1024"}],
    },
}
"""Everything of `spec.podTemplate.spec` that is Kubernetes' own."""


def nested_affinity(manifest: dict[str, Any], depth: int) -> str:
    """The JSON of a ThreadCluster whose affinity is nested so deep that `json` neither writes nor reads it."""
    deep = '{"deep":' * depth + "{}" + "}" * depth
    spec = {**manifest["spec"], "podTemplate": {"spec": {"affinity": "DEEP"}}}
    return json.dumps({**manifest, "spec": spec}).replace('"DEEP"', deep)
