"""The CustomResourceDefinition: the API server accepts its schema, and the file equals the generated one."""

import runpy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field
from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.api import reference as page
from threadcluster_operator.api.crd import crd, manifest, schema_of
from threadcluster_operator.api.reference import reference

from tests.support.paths import ROOT

FILE = ROOT / "crds" / "threadclusters.yaml"
VERSION = crd()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


NODES = [(path, node) for path, node in nodes(SCHEMA) if path not in ("", ".apiVersion", ".kind", ".metadata")]


@pytest.mark.parametrize(
    ("made", "file"), [(manifest, FILE), (reference, ROOT / "docs" / "threadcluster.md")], ids=["crd", "reference"]
)
def test_what_is_generated_is_what_the_model_says(
    made: Callable[[], str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written by `make docs`, which runs the modules as programs."""
    assert file.read_text() == made()
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # that the module is imported already
        runpy.run_module(made.__module__, run_name="__main__")
    assert capsys.readouterr().out == file.read_text()


def test_the_file_is_the_object() -> None:
    """Nothing is lost on its way through YAML."""
    assert yaml.safe_load(FILE.read_text()) == crd()


def test_it_is_small() -> None:
    """Client-side apply keeps a copy in an annotation, which is 256 KiB at most."""
    assert FILE.stat().st_size <= 200 * 1024


def test_it_is_called_as_people_type_it() -> None:
    """`kubectl get thr`, `kubectl get all`; `tc` is another's."""
    definition = crd()
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == "threadclusters.threadcluster.io"
    assert (names["kind"], names["shortNames"], names["categories"]) == ("ThreadCluster", ["thr"], ["all"])
    assert VERSION["name"] == "v1alpha1"


def test_it_can_be_scaled() -> None:
    """All three paths: a HorizontalPodAutoscaler needs the selector."""
    assert VERSION["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_what_kubectl_get_shows() -> None:
    """The wide columns are of priority 1."""
    columns = VERSION["additionalPrinterColumns"]
    narrow = [column["name"] for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert (narrow, wide) == (["Ready", "Workers", "Shards", "Moving", "Age"], ["Image", "Reason", "Imbalance"])


def test_every_column_shows_something_that_is_there() -> None:
    """A misspelled path would show an empty column."""
    known = {path for path, _ in NODES} | {".metadata.creationTimestamp"}
    for column in VERSION["additionalPrinterColumns"]:
        assert column["jsonPath"].replace('[?(@.type=="Ready")]', "[]") in known


@pytest.mark.parametrize(("path", "node"), NODES, ids=[path for path, _ in NODES])
def test_the_schema_is_structural_and_bounded(path: str, node: dict[str, Any]) -> None:
    """The API server takes no references and no alternatives, and prices each rule by the largest object."""
    assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "allOf", "const", "title", "nullable", "x-local"}
    assert node.get("additionalProperties") is not False
    if node.get("x-kubernetes-int-or-string"):
        assert "type" not in node
        assert {"pattern", "maxLength"} <= node.keys()
        return
    match node["type"]:
        case "string":
            assert "maxLength" in node or "enum" in node
        case "integer":
            assert "minimum" in node or "enum" in node
            assert "maximum" in node or "enum" in node or path.startswith(".status")
        case "array":
            assert "maxItems" in node
            assert node["x-kubernetes-list-type"] in ("map", "atomic")
            for key in node.get("x-kubernetes-list-map-keys", ()):
                assert key in node["items"]["required"]
        case "object":
            assert "x-kubernetes-preserve-unknown-fields" not in node
            parts = node.keys() & {"properties", "additionalProperties"}
            assert len(parts) == 1
            assert "properties" in parts or "maxProperties" in node
        case kind:
            assert kind == "boolean"


def test_no_object_is_deeper_than_the_schema() -> None:
    """An open part of the schema would let through objects nested so deep that no client decodes them."""
    assert max(path.count(".") + path.count("[]") for path, _ in NODES) <= 14


def test_the_server_fills_in_nothing_within_a_list() -> None:
    """`kubectl apply` compares a list as a whole: a default in an item makes each apply a change."""
    filled = [path for path, node in NODES if "[]" in path and "default" in node]
    assert filled == []
    assert "default" in nodes_of_reference()[".worker.env[].valueFrom.secretKeyRef.optional"]


def nodes_of_reference() -> dict[str, dict[str, Any]]:
    """Every schema of the spec as the reference shows it."""
    return dict(nodes(schema_of(ThreadClusterSpec, marks=True)))


def test_every_field_says_what_it_is_for() -> None:
    """`kubectl explain` has a sentence for each; what is in a list or a map has its own where it is an object."""
    dumb = [path for path, node in NODES if not node.get("description") and not path.endswith("[]")]
    assert dumb == []


def test_kubectl_explain_shows_defaults_and_limits() -> None:
    """It prints descriptions alone: each of the spec ends with the default and the limits of the field."""
    texts = {path: node["description"] for path, node in NODES if "description" in node}
    assert texts[".spec.shards"].endswith("Default: 144. Allowed: 1 to 4096.")
    assert texts[".spec.paused"].endswith("Default: false.")
    assert texts[".spec.rebalance.mode"].endswith("Default: Auto.")  # kubectl lists the values itself
    assert texts[".spec.worker.env[].valueFrom.secretKeyRef.optional"].endswith("Default: false.")
    silent = [
        path
        for path, node in NODES
        if path.startswith(".spec") and "description" in node and ("maximum" in node or "maxLength" in node)
        if "Allowed: " not in node["description"]
    ]
    assert silent == []


def test_parts_have_the_defaults_of_their_fields() -> None:
    """The server fills `{}` from within, so that no default is defined twice."""
    assert (SPEC["properties"]["rebalance"]["default"], SPEC["properties"]["shards"]["default"]) == ({}, 144)
    assert SPEC["properties"]["rebalance"]["properties"]["mode"]["default"] == "Auto"
    assert "default" not in SPEC["properties"]["database"]
    assert not [path for path, node in NODES if path.startswith(".status") and "default" in node]


def test_what_the_model_refuses_across_fields_the_server_refuses_too() -> None:
    """Each rule is a sentence, and its field exists."""
    known = {path for path, _ in NODES}
    rules = [(path, rule) for path, node in nodes(SCHEMA) for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 12
    for path, rule in rules:
        assert rule.keys() <= {"rule", "message", "fieldPath", "reason"}
        assert path + rule.get("fieldPath", "") in known or path == ""
        assert "\n" not in rule["rule"] + rule["message"]


def test_a_field_says_more_than_the_part_that_it_is_of() -> None:
    """Its own words and default win; a reference within an optional one is followed."""

    class Inner(BaseModel):
        """Any of them."""

        size: int = 1

    class Outer(BaseModel):
        """The whole."""

        one: Annotated[Inner, Field(description="This one.")] = Inner()
        other: Inner | None = None
        sizes: dict[str, int] = {}

    size = {"type": "integer", "default": 1}
    inner = {"type": "object", "properties": {"size": size}}
    assert schema_of(Outer) == {
        "description": "The whole.",
        "type": "object",
        "properties": {
            "one": {"description": "This one.", **inner, "default": {}},
            "other": {"description": "Any of them.", **inner},
            "sizes": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}},
        },
    }


def test_only_the_reference_knows_of_platforms() -> None:
    """The marks are for us; the API server would refuse them."""
    marked = schema_of(ThreadClusterSpec, marks=True)["properties"]
    assert "x-local" in marked["shards"]
    assert "x-local" not in marked["image"]
    assert "x-local" not in SPEC["properties"]["shards"]


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ({"minimum": 1, "maximum": 5}, "1 to 5"),
        ({"minimum": 0, "maxLength": 32}, "≥ 0, 0 to 32 characters"),
        ({"maxItems": 3, "maxProperties": 4}, "≤ 3 items, ≤ 4 entries"),
    ],
    ids=["range", "least-and-length", "items-and-entries"],
)
def test_every_limit_of_a_field_is_named(part: dict[str, Any], allowed: str) -> None:
    """One after the other."""
    assert page._allowed(part) == allowed


def test_a_bar_in_a_cell_ends_no_cell() -> None:
    """A row of the reference has as many cells as its head."""
    part = {"type": "string", "enum": ["a|b"], "description": "One | the other."}
    row = page._table(iter([("spec.x", part, False)]), used_by=False)[-1]
    assert row == "| `spec.x` | string | – | `a\\|b` | One \\| the other. |"
