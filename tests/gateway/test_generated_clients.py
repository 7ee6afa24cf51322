"""The OpenAPI document is what generators of clients, and people who read it, need."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from shard_worker.gateway.public.openapi import document
from tests.gateway.serving import Served
from tests.support.paths import ROOT
from tests.support.python_client import PythonClient, generate

Node = dict[str, Any]  # Any: a piece of the document

API = document()
SCHEMAS: Node = API["components"]["schemas"]
OPERATIONS = {
    operation["operationId"]: operation for methods in API["paths"].values() for operation in methods.values()
}
BODIES = {name for name in SCHEMAS if name.endswith("Body")}
DEPRECATED = {
    *((name, "error_messages") for name in SCHEMAS if name.endswith("Answer")),
    ("ThreadCreatedAnswer", "thread_id"),
    ("LeaveAdministratorIdsBody", "accountIds"),
}
"""Fields that are there for clients of the system before this one."""


def nodes(node: object, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every object of the document that is no example."""
    if isinstance(node, dict):
        yield path, node
        for name, member in node.items():
            if name not in ("example", "examples"):
                yield from nodes(member, f"{path}/{name}")
    elif isinstance(node, list):
        for index, member in enumerate(node):
            yield from nodes(member, f"{path}/{index}")


def resolved(node: Node) -> Node:
    """The node, with what it refers to."""
    if "$ref" not in node:
        return node
    found: Any = API
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return {**found, **node}


def properties() -> Iterator[tuple[str, str, Node]]:
    """Every field of every schema."""
    for name, schema in SCHEMAS.items():
        for field, node in schema["properties"].items():
            yield name, field, resolved(node)


def parameters() -> Iterator[tuple[str, Node]]:
    """Every parameter of every operation."""
    for name, operation in OPERATIONS.items():
        for parameter in operation.get("parameters", []):
            yield name, resolved(parameter)


def check_example(schema: Node, value: object) -> None:
    """The value fits the schema."""
    jsonschema_rs.Draft202012Validator({"allOf": [schema], "components": API["components"]}).validate(value)


def test_arrays_have_items() -> None:
    """Without, a generator has no type for them."""
    arrays = [(path, node) for path, node in nodes(API) if node.get("type") == "array"]
    assert arrays
    assert not [path for path, node in arrays if "items" not in node]


def test_nothing_has_a_default() -> None:
    """openapi-typescript takes a field with a default for one that is always there; null is none of a string's values."""
    assert not [path for path, node in nodes(API) if "default" in node]


def test_values_of_answers_are_open() -> None:
    """A client that knows a closed set cannot read the answer of a release that has one more."""
    assert not [path for path, node in nodes(API) if "enum" in node or "const" in node]


@pytest.mark.parametrize("keyword", ["allOf", "oneOf", "not", "if"])
def test_no_schema_is_a_puzzle(keyword: str) -> None:
    """Generators have no type for a choice between sets of fields, or for one schema narrowed by another."""
    assert not [path for path, node in nodes(API) if keyword in node]


def test_every_operation_is_explained_and_shown() -> None:
    """In words, and by an answer of each kind."""
    for name, operation in OPERATIONS.items():
        assert operation["summary"], name
        assert len(operation["description"]) > 20, name
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            check_example(content["schema"], content["example"])
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            for content in response.get("content", {}).values():
                shown = [resolved(each)["value"] for each in content.get("examples", {}).values()]
                shown += [content["example"]] if "example" in content else []
                assert shown, (name, status)
                for value in shown:
                    check_example(content["schema"], value)


def test_an_example_of_a_problem_has_its_code() -> None:
    """Each is under the name of its code, with the fields that come with it."""
    for name, example in API["components"]["examples"].items():
        assert example["value"]["code"] == name
        check_example(SCHEMAS["Problem"], example["value"])


def test_every_parameter_and_header_field_is_explained_and_shown() -> None:
    """Those of answers too."""
    answered = [
        (f"{name} {status} {field}", header)
        for name, operation in OPERATIONS.items()
        for status, response in operation["responses"].items()
        for field, header in response.get("headers", {}).items()
    ]
    for name, node in (*parameters(), *answered):
        assert node["description"], name
        assert node["schema"]["examples"], name
        for value in node["schema"]["examples"]:
            check_example(node["schema"], value)


def test_every_field_is_explained_and_shown() -> None:
    """Its own example, or that of its parts."""
    for name, field, node in properties():
        assert node["description"], (name, field)
        items = resolved(node["items"]) if node.get("type") == "array" else node
        assert node.get("examples") or items.get("examples") or items.get("properties"), (name, field)
        for value in node.get("examples", []):
            check_example(node, value)


def test_fields_of_the_system_before_are_deprecated() -> None:
    """They, and no others."""
    assert {(name, field) for name, field, node in properties() if node.get("deprecated")} == DEPRECATED


def test_a_field_that_may_be_left_out_may_be_null() -> None:
    """A generated client sends either."""
    for name, field, node in properties():
        if name in BODIES and field not in SCHEMAS[name]["required"]:
            assert {"type": "null"} in node["anyOf"], (name, field)


@pytest.mark.parametrize("name", ["followThread", "followAccount"])
def test_a_stream_names_the_right_reader(name: str) -> None:
    """A generated client waits for the end of an answer, and this one has none."""
    assert "EventSource" in OPERATIONS[name]["description"]
    assert "Last-Event-ID" in {parameter["name"] for parameter in OPERATIONS[name]["parameters"]}


async def test_a_generated_client_chats(api: Served, tmp_path: Path) -> None:
    """openapi-python-client has nothing to warn of, and what it makes creates, posts, pages and fails as it should."""
    package = tmp_path / "generated_chat"
    assert "arning" not in generate(ROOT / "docs" / "openapi.json", package)
    await PythonClient(package, f"http://127.0.0.1:{api.port}").chat()
