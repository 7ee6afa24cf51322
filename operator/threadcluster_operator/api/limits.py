"""Defaults and limits of a field, as people read them: in the reference, and in `kubectl explain`."""

from typing import Any

Schema = dict[str, Any]  # of JSON schemas, whose values are of every type


def default_of(part: Schema) -> str | None:
    """The default of a field; None for a field without one, and for a part whose fields have their own."""
    default = part.get("default")
    if default is None or default in ({}, []) or "properties" in part:
        return None
    return str(default).lower() if isinstance(default, bool) else str(default)


def limits_of(part: Schema) -> list[str]:
    """The limits of a field's value, beside its type and its set of values."""
    limits = []
    if "maximum" in part:
        limits.append(f"{part['minimum']} to {part['maximum']}")
    elif "minimum" in part:
        limits.append(f"≥ {part['minimum']}")
    if "maxLength" in part:
        limits.append(f"{part.get('minLength', 0)} to {part['maxLength']} characters")
    if "maxItems" in part:
        limits.append(f"≤ {part['maxItems']} items")
    if "maxProperties" in part:
        limits.append(f"≤ {part['maxProperties']} entries")
    return limits


def explanation(part: Schema) -> str:
    """The end of a description: the default and the limits; empty without both."""
    default, limits = default_of(part), limits_of(part)
    found = "" if default is None else f" Default: {default}."
    return found + (f" Allowed: {', '.join(limits)}." if limits else "")
