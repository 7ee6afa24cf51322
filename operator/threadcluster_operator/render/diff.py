"""The differences between a wanted object and the live one.

Only wanted fields are compared: a default that the API server adds, or an item that another writer adds to a shared list
or map, is no difference, since applying the object again would not remove it.  A field that is no longer wanted shows in
the annotation `APPLIED`.  Lists are compared as the API server merges them: some by a key, the rest whole.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from threadcluster_operator.render.quantities import amount

_KEYS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("metadata", "ownerReferences"): ("uid",),
    ("spec", "ports"): ("port", "protocol"),
    ("spec", "containers"): ("name",),
    ("spec", "volumes"): ("name",),
    ("spec", "imagePullSecrets"): ("name",),
    ("spec", "topologySpreadConstraints"): ("topologyKey", "whenUnsatisfiable"),
    ("containers", "env"): ("name",),
    ("containers", "ports"): ("containerPort", "protocol"),
    ("containers", "volumeMounts"): ("mountPath",),
}
"""The lists, by the last two names on their way, whose items are identified by keys; other writers may add items."""

_QUANTITIES: Final = frozenset({"requests", "limits"})


def differences(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Where the live object is not as wanted, as paths for people; empty when there is nothing to apply."""
    return list(_map(wanted, live, ()))


def is_applied(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether there is nothing to apply."""
    return next(_map(wanted, live, ()), None) is None


_Path = tuple[str, ...]


def _compare(wanted: Any, live: Any, path: _Path) -> Iterator[str]:  # JSON
    if not wanted and live is None:
        return  # the API server leaves out what is empty
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        yield from _map(wanted, live, path)
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _list(wanted, live, path)
    elif wanted != live and not _equal_amounts(wanted, live, path):
        yield ".".join(path)


def _map(wanted: Mapping[str, Any], live: Mapping[str, Any], path: _Path) -> Iterator[str]:
    for name, value in wanted.items():
        yield from _compare(value, live.get(name), (*path, name))


def _list(wanted: list[Any], live: list[Any], path: _Path) -> Iterator[str]:
    keys = _KEYS.get((path[-2], path[-1])) if len(path) > 1 else None
    if keys is not None:
        found = {tuple(item.get(key) for key in keys): item for item in live}
        for item in wanted:
            yield from _item(item, found.get(tuple(item.get(key) for key in keys)), path)
    elif len(wanted) != len(live):
        yield ".".join(path)
    else:
        for item, other in zip(wanted, live, strict=True):
            yield from _item(item, other, path)


def _item(wanted: Any, live: Any, path: _Path) -> Iterator[str]:  # JSON
    """An item of a list; which one it is does not stand in the path, since people look at the list."""
    if live is None:
        yield ".".join(path)
    else:
        yield from _compare(wanted, live, path)


def _equal_amounts(wanted: object, live: object, path: _Path) -> bool:
    number = amount(wanted) if len(path) > 1 and path[-2] in _QUANTITIES else None
    return number is not None and number == amount(live)
