"""The CustomResourceDefinition, made from the model: `python -m threadcluster_operator.api.crd > crds/threadclusters.yaml`.

Pydantic's JSON schema becomes a *structural* one, which is what the Kubernetes API server takes: references inlined, what
may be absent simply not required (never null), the default of a part `{}`, which the server fills from the part's own
fields.  Everything is bounded, because the server estimates the cost of each rule by the largest object that could come.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import yaml
from pydantic import BaseModel

from threadcluster_operator.api import API_VERSION, KIND, ThreadClusterSpec, ThreadClusterStatus
from threadcluster_operator.api.fields import LOCAL_MARK, NAME_LENGTH, NAME_PATTERN
from threadcluster_operator.api.limits import explanation

GROUP: Final = API_VERSION.partition("/")[0]
VERSION: Final = API_VERSION.partition("/")[2]
PLURAL: Final = f"{KIND.lower()}s"

Schema = dict[str, Any]  # of JSON schemas, whose values are of every type

_NO_PLACE: Final = frozenset({"title", "propertyNames", "$ref", "anyOf", "const", "additionalProperties", "default"})
"""Keywords of JSON Schema that a structural schema must not have, or has in a form of its own."""


def crd() -> Schema:
    """The CustomResourceDefinition, as an object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "singular": KIND.lower(),
                "plural": PLURAL,
                "shortNames": ["thr"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": _columns(),
                }
            ],
        },
    }


def schema_of(model: type[BaseModel], *, defaults: bool = True, marks: bool = False) -> Schema:
    """The structural schema of a model.

    Without ``defaults`` the server adds nothing to what is written.  ``marks`` keeps which platform uses a field, for the
    reference, which has columns for defaults and limits; the server would refuse the marks.
    """
    raw = model.model_json_schema()
    return _structural(raw, raw.get("$defs", {}), _Style(defaults, marks, explained=defaults and not marks))


class _Style(NamedTuple):
    """The parts of a schema beside types and descriptions."""

    defaults: bool
    marks: bool
    explained: bool
    """Whether descriptions end with default and limits: `kubectl explain` shows no others."""


def _structural(node: Schema, parts: Mapping[str, Schema], style: _Style) -> Schema:
    node = _resolved(node, parts)
    schema: Schema = {}
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
        if style.explained:
            schema["description"] += explanation(node)
    schema |= {
        key: value
        for key, value in node.items()
        if key not in _NO_PLACE | {"description", "properties", "items", "$defs"} and (style.marks or key != LOCAL_MARK)
    }
    if "properties" in node:
        schema["properties"] = {name: _structural(part, parts, style) for name, part in node["properties"].items()}
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(node["additionalProperties"], parts, style)
    if "items" in node:
        # The server fills in no default within a list: `kubectl apply` compares a list as a whole, and would find a
        # list that differs from the manifest at every apply.  The reference shows them: the operator fills them in.
        schema["items"] = _structural(node["items"], parts, style._replace(defaults=style.defaults and style.marks))
    if style.defaults and node.get("default") is not None:
        schema["default"] = {} if "properties" in node else node["default"]
    return schema


def _resolved(node: Schema, parts: Mapping[str, Schema]) -> Schema:
    """A schema with its references replaced by their targets; keywords beside a reference override the target's."""
    while "$ref" in node or "anyOf" in node:
        node = dict(node)
        if "$ref" in node:
            inner = parts[node.pop("$ref").rpartition("/")[2]]
        else:
            (inner,) = (choice for choice in node.pop("anyOf") if choice != {"type": "null"})
        node = {**inner, **node}
    return node


def _root() -> Schema:
    return {
        "description": "A chat cluster: a number of workers, which serve the threads divided into shards, on one Postgres.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(ThreadClusterSpec),
            "status": schema_of(ThreadClusterStatus, defaults=False),
        },
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= {NAME_LENGTH}",
                "message": f"metadata.name: at most {NAME_LENGTH} characters, because the names of pods and Services are made of it",
            },
            {
                "rule": f"self.metadata.name.matches('{NAME_PATTERN}')",
                "message": "metadata.name: only lower-case letters, digits and -, and a letter first, because Services are named for it",
            },
        ],
    }


def _columns() -> list[Schema]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        {"name": "Ready", "type": "string", "jsonPath": f"{ready}.status"},
        {"name": "Workers", "type": "string", "jsonPath": ".status.readyWorkers"},
        {"name": "Shards", "type": "integer", "jsonPath": ".status.shards.assigned"},
        {"name": "Moving", "type": "integer", "jsonPath": ".status.shards.moving"},
        {"name": "Image", "type": "string", "jsonPath": ".status.image", "priority": 1},
        {"name": "Reason", "type": "string", "jsonPath": f"{ready}.reason", "priority": 1},
        {"name": "Imbalance", "type": "integer", "jsonPath": ".status.shards.imbalancePercent", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]


def manifest() -> str:
    """The CustomResourceDefinition, as the text of its file."""
    text = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return "# Generated from operator/threadcluster_operator/api by `make docs`; do not edit.\n" + text


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: references are for machines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(manifest())
