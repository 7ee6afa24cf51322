"""The metadata that all objects share: labels, owner, and a mark of the fields that were last applied."""

import hashlib
import json
from typing import Any, Final, Literal

from threadcluster_operator.api import API_VERSION, KIND
from threadcluster_operator.render.inputs import RenderInput

Object = dict[str, Any]  # Kubernetes' own JSON; its API server is the one that knows the shapes

Component = Literal["worker", "migration", "gateway"]

MANAGER: Final = "threadcluster-operator"
"""The operator's own `app.kubernetes.io/name`, and its field manager."""
APPLIED: Final = "threadcluster.io/applied"
"""An annotation: the hash of the object as it was wanted, so that what is wanted no more is noticed as well."""


def selector_of(name: str, component: Component | None = None) -> dict[str, str]:
    """The labels by which a cluster's pods are selected, all of them or one component's; they never change."""
    labels = {"app.kubernetes.io/name": "threadcluster", "app.kubernetes.io/instance": name}
    return labels if component is None else {**labels, "app.kubernetes.io/component": component}


def labels_of(wanted: RenderInput, component: Component) -> dict[str, str]:
    """The labels of an object.  Nothing of a release is among them: they stand in the pod template as well."""
    return {**selector_of(wanted.name, component), "app.kubernetes.io/managed-by": MANAGER}


def child(
    wanted: RenderInput,
    api_version: str,
    kind: str,
    name: str,
    component: Component,
    body: Object,
    *,
    annotations: dict[str, str] | None = None,
) -> Object:
    """An object that belongs to the cluster, and goes with it; it shares nothing with the spec, nor within itself."""
    made: Object = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": wanted.namespace,
            "labels": labels_of(wanted, component),
            "annotations": dict(annotations or {}),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": wanted.name,
                    "uid": wanted.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        **json.loads(json.dumps(body)),
    }
    made["metadata"]["annotations"][APPLIED] = digest(made)
    return made


def digest(value: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
