"""The manager of each field of an object, as the API server records it: pure.

The API server records the fields that a client sets by POST or merge in another entry than those that the same client
applies, and an apply removes only fields of its own entry.  A field of the POST would therefore never be removed.  The
remedy is that of client-go's `csaupgrade`: the two entries are merged into one before anything is applied.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

Entry = dict[str, Any]  # Kubernetes' own JSON

_APPLY: Final = "Apply"


def merge_manager_entries(entries: Iterable[Mapping[str, Any]], manager: str) -> list[Entry] | None:
    """The entries with all of the manager's made one, as of an apply; None when they are so already.

    Those of a subresource, as of the status, are left alone.
    """
    ours: list[Entry] = []
    others: list[Entry] = []
    for each in entries:
        (ours if each.get("manager") == manager and not each.get("subresource") else others).append(dict(each))
    if all(each.get("operation") == _APPLY for each in ours):
        return None
    fields: Mapping[str, Any] = {}
    for each in ours:
        fields = _union(fields, each.get("fieldsV1") or {})
    return [*others, {**ours[-1], "operation": _APPLY, "fieldsV1": fields}]


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, **{name: _union(one.get(name, {}), below) for name, below in other.items()}}
