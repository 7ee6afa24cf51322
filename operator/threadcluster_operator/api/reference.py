"""The reference of all fields, for people: `python -m threadcluster_operator.api.reference > docs/threadcluster.md`."""

import sys
from collections.abc import Iterator
from typing import Final

from threadcluster_operator.api import API_VERSION, KIND, ThreadClusterSpec, ThreadClusterStatus
from threadcluster_operator.api.crd import Schema, schema_of
from threadcluster_operator.api.fields import LOCAL_MARK, NAME_LENGTH
from threadcluster_operator.api.limits import default_of, limits_of

_HEAD: Final = f"""# The {KIND} resource

Generated from `operator/threadcluster_operator/api` by `make docs`; do not edit. The same model makes
`crds/threadclusters.yaml`, so `kubectl explain threadcluster.spec` says the same.

```yaml
apiVersion: {API_VERSION}
kind: {KIND}
metadata:
  name: demo          # at most {NAME_LENGTH} characters: lower-case letters, digits and -, a letter first
spec: {{}}              # everything below
```

- **Kubernetes**: the API server refuses what is wrong, with the field and the reason, before it is stored. `kubectl` refuses
  a field that the schema does not know as well. `spec.image` and `spec.database` are required.
- **local** (`threadcluster local up`): the same YAML. All of it is checked by the same rules, and an unknown field is
  refused. Only the fields marked *both* have an effect there; the others are for the same file on Kubernetes. Secrets that it
  refers to stand in the same file.
- A field that is left out has its default. `*` marks those that must be given wherever the part around them is.
- `[]` is each item of a list. The items of a list that has a key are identified by the key: two items with the same key are refused.
- *Not yet acted on* means what it says: such a field is checked and kept, and changes nothing.

More in [samples](../manifests/samples), one for each subject.
"""


def reference() -> str:
    """The whole page."""
    spec = schema_of(ThreadClusterSpec, marks=True)
    lines = [_HEAD, "## spec\n"]
    simple = {name: part for name, part in spec["properties"].items() if "properties" not in part}
    lines += _table(_fields({"properties": simple}, "spec"), used_by=True)
    for name, part in spec["properties"].items():
        if "properties" in part:
            left_out = "" if "default" in part else " Nothing of it is there unless it is given."
            lines += [f"\n## spec.{name}\n", f"{part['description']}{left_out}\n"]
            lines += _table(_fields(part, f"spec.{name}", LOCAL_MARK in part), used_by=True)
    lines += ["\n## Rules across fields\n", "| at | rule |", "| --- | --- |"]
    lines += [f"| `{path}` | {message} |" for path, message in _rules(spec, "spec")]
    lines += ["\n## status\n", "The operator alone writes the status. The local platform has no status: see"]
    lines += ["`threadcluster status`.\n"]
    lines += _table(_fields(schema_of(ThreadClusterStatus, defaults=False), "status"), used_by=False)
    return "\n".join(lines) + "\n"


def _fields(schema: Schema, path: str, local: bool = True) -> Iterator[tuple[str, Schema, bool]]:
    """Every field with its path, the parts before what is in them, and whether the local platform acts on it."""
    for name, part in schema["properties"].items():
        here = f"{path}.{name}"
        star = "*" if name in schema.get("required", ()) else ""
        marked = local and LOCAL_MARK in part
        yield here + star, part, marked
        inner, suffix = part, ""
        if "items" in part:
            inner, suffix = part["items"], "[]"
        if "properties" in inner:
            yield from _fields(inner, here + suffix, marked)


def _table(fields: Iterator[tuple[str, Schema, bool]], *, used_by: bool) -> list[str]:
    head = ["field", "type", "default", "allowed", *(["used by"] if used_by else []), "meaning"]
    rows = [head, ["---"] * len(head)]
    for path, part, local in fields:
        platforms = [("both" if local else "Kubernetes")] if used_by else []
        rows.append([f"`{path}`", _type(part), _default(part), _allowed(part), *platforms, part.get("description", "")])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _type(part: Schema) -> str:
    if "x-kubernetes-int-or-string" in part:
        return "quantity"
    if "items" in part:
        keys = part.get("x-kubernetes-list-map-keys")
        return f"list of {_type(part['items'])}s" + (f", key `{keys[0]}`" if keys else "")
    if "additionalProperties" in part:
        return f"map of {_type(part['additionalProperties'])}s".replace("quantitys", "quantities")
    return str(part["type"])


def _default(part: Schema) -> str:
    default = default_of(part)
    return "–" if default is None else f"`{default}`"


def _allowed(part: Schema) -> str:
    if "enum" in part:
        return ", ".join(f"`{choice}`" for choice in part["enum"])
    return ", ".join(limits_of(part))


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield (
            path + rule.get("fieldPath", ""),
            ("required on Kubernetes: " if "reason" in rule else "") + rule["message"],
        )
    for name, part in schema.get("properties", {}).items():
        inner, suffix = (part["items"], "[]") if "items" in part else (part, "")
        yield from _rules(inner, f"{path}.{name}{suffix}")


if __name__ == "__main__":
    sys.stdout.write(reference())
