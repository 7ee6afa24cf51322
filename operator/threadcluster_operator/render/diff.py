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


_GATED: Final = frozenset({("rollingUpdate", "maxUnavailable")})
"""Fields that an API server leaves out, and says nothing, where its feature gate is off."""


def differences(
    wanted: Mapping[str, Any], live: Mapping[str, Any], answer: Mapping[str, Any] | None = None
) -> list[str]:
    """Where the live object is not as wanted, as paths for people; empty when there is nothing to apply.

    ``answer``: what the API server gave back when just this ``wanted`` was written.  A value of the live object that is that of
    the answer is no difference: an admission rule has chosen it, and would choose it again.
    """
    return list(_map(wanted, live, _UNANSWERED if answer is None else answer, ()))


def is_applied(wanted: Mapping[str, Any], live: Mapping[str, Any], answer: Mapping[str, Any] | None = None) -> bool:
    """Whether there is nothing to apply; ``answer`` as for `differences`."""
    return next(_map(wanted, live, _UNANSWERED if answer is None else answer, ()), None) is None


_Path = tuple[str, ...]

_UNANSWERED: Final = object()
"""No answer is known; unlike None, which is a value that the API server left out."""


def _compare(wanted: Any, live: Any, answer: Any, path: _Path) -> Iterator[str]:  # JSON
    if not wanted and live is None:
        return  # the API server leaves out what is empty
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        yield from _map(wanted, live, answer, path)
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _list(wanted, live, answer, path)
    elif wanted != live and live != answer and not _equal_amounts(wanted, live, path):
        yield ".".join(path)


def _map(wanted: Mapping[str, Any], live: Mapping[str, Any], answer: Any, path: _Path) -> Iterator[str]:
    answers = answer if isinstance(answer, Mapping) else None
    for name, value in wanted.items():
        if name not in live and path and (path[-1], name) in _GATED:
            continue
        its = _UNANSWERED if answers is None else answers.get(name)
        yield from _compare(value, live.get(name), its, (*path, name))


def _list(wanted: list[Any], live: list[Any], answer: Any, path: _Path) -> Iterator[str]:
    keys = _KEYS.get((path[-2], path[-1])) if len(path) > 1 else None
    answers = answer if isinstance(answer, list) else None
    if keys is not None:
        found = _by_keys(live, keys)
        given = None if answers is None else _by_keys(answers, keys)
        for item in wanted:
            key = tuple(item.get(name) for name in keys)
            yield from _item(item, found.get(key), _UNANSWERED if given is None else given.get(key), path)
    elif len(wanted) != len(live):
        if live != answers:
            yield ".".join(path)
    else:
        same_length = answers is not None and len(answers) == len(live)
        for number, (item, other) in enumerate(zip(wanted, live, strict=True)):
            its = answers[number] if same_length and answers is not None else _UNANSWERED
            yield from _item(item, other, its, path)


def _by_keys(items: list[Any], keys: tuple[str, ...]) -> dict[tuple[Any, ...], Any]:
    return {tuple(item.get(name) for name in keys): item for item in items}


def _item(wanted: Any, live: Any, answer: Any, path: _Path) -> Iterator[str]:  # JSON
    """An item of a list; which one it is is not part of the path, since people look at the list."""
    if live is not None:
        yield from _compare(wanted, live, answer, path)
    elif answer is not None:
        yield ".".join(path)


def _equal_amounts(wanted: object, live: object, path: _Path) -> bool:
    number = amount(wanted) if len(path) > 1 and path[-2] in _QUANTITIES else None
    return number is not None and number == amount(live)
