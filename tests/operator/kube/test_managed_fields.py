"""Entries of managed fields in requests to the API server."""

from typing import Any

from threadcluster_operator.kube.managed_fields import merge_manager_entries


def entry(operation: str, fields: dict[str, Any], manager: str = "us", **more: str) -> dict[str, Any]:
    """An entry of `managedFields`."""
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields, **more}


def test_what_was_made_and_what_was_applied_become_one() -> None:
    """Fields of both; other managers' fields, and the operator's status, stay as they are."""
    theirs = entry("Update", {"f:spec": {"f:replicas": {}}}, "kubectl")
    status = entry("Update", {"f:status": {}}, subresource="status")
    made = entry("Update", {"f:spec": {"f:a": {}, "f:both": {"f:x": {}}}}, time="1")
    applied = entry("Apply", {"f:spec": {"f:both": {"f:y": {}}, "f:b": {}}}, time="2")
    assert merge_manager_entries([made, theirs, applied, status], "us") == [
        theirs,
        status,
        entry("Apply", {"f:spec": {"f:a": {}, "f:both": {"f:x": {}, "f:y": {}}, "f:b": {}}}, time="2"),
    ]


def test_what_was_only_made_becomes_applied() -> None:
    """As after a POST; an entry without fields has none."""
    made = entry("Update", {"f:data": {}})
    assert merge_manager_entries([made], "us") == [entry("Apply", {"f:data": {}})]
    assert merge_manager_entries([{"manager": "us", "operation": "Update"}], "us") == [
        {"manager": "us", "operation": "Apply", "fieldsV1": {}}
    ]


def test_what_is_so_already_is_left_alone() -> None:
    """No write for nothing; nor where nothing is ours."""
    assert merge_manager_entries([entry("Apply", {"f:data": {}}), entry("Update", {}, "kubectl")], "us") is None
    assert merge_manager_entries([], "us") is None
