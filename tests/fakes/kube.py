"""An API server in memory, one namespace's worth: objects by kind and name, with uids and versions, and faults on demand."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from threadcluster_operator.kube.client import Conflict, Kind, KubeError, ListResult, NotFound, Object
from threadcluster_operator.kube.preconditions import Preconditions


class InMemoryKube:
    """Implements `threadcluster_operator.kube.client.Kube`.  ``calls`` has what was asked, as (verb, kind, name); of a dry run the verb is "try create"."""

    def __init__(self, *objects: Object) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.fault: Callable[[str, str], KubeError | None] = lambda verb, kind: None
        self._numbers = itertools.count(1)
        for each in objects:
            self.put(each)

    def writes(self) -> list[tuple[str, str, str]]:
        """The write requests since the last call, without dry runs; forgets all requests."""
        found = [call for call in self.calls if call[0] not in ("get", "list") and not call[0].startswith("try ")]
        self.calls.clear()
        return found

    def put(self, body: Object) -> Object:
        """Create or change an object as another client."""
        made = copy.deepcopy(body)
        old = self.objects.get((body["kind"], body["metadata"]["name"]))
        meta = made["metadata"]
        meta["uid"] = old["metadata"]["uid"] if old is not None else meta.get("uid", f"uid-{next(self._numbers)}")
        meta["resourceVersion"] = str(next(self._numbers))
        self.objects[body["kind"], meta["name"]] = made
        return made

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        del namespace
        self._ask("get", kind, name)
        return copy.deepcopy(self.objects.get((kind.kind, name)))

    async def list(
        self, kind: Kind, namespace: str | None, labels: str = "", keep: Callable[[Object], Object] = dict
    ) -> ListResult:
        del namespace, labels
        self._ask("list", kind, "")
        found = [keep(copy.deepcopy(each)) for (its, _), each in self.objects.items() if its == kind.kind]
        return ListResult(found, str(next(self._numbers)))

    async def probe(self, kind: Kind, namespace: str | None) -> None:
        del namespace
        self._ask("list", kind, "")

    async def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        self._ask("create", kind, body["metadata"]["name"], dry_run=dry_run)
        if (kind.kind, body["metadata"]["name"]) in self.objects:
            raise Conflict(409, "AlreadyExists", "it exists")
        if dry_run:
            return body
        return copy.deepcopy(self.put(body))

    async def apply(self, kind: Kind, body: Object, seen: Preconditions, *, dry_run: bool = False) -> Object:
        self._ask("apply", kind, body["metadata"]["name"], dry_run=dry_run)
        if Preconditions.of(self._there(kind, body["metadata"]["name"])) != seen:
            raise Conflict(409, "Conflict", "it is another, or has been modified")
        if dry_run:
            return body
        return copy.deepcopy(self.put(body))

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "", *, dry_run: bool = False
    ) -> Object:
        del namespace
        self._ask(f"merge {subresource}".strip(), kind, name, dry_run=dry_run)
        found = self._there(kind, name)
        version = found["metadata"]["resourceVersion"]
        if patch.get("metadata", {}).get("resourceVersion", version) != version:
            raise Conflict(409, "Conflict", "the object has been modified")
        if dry_run:
            return found
        merged = _merged(found, patch)
        # A write that changes nothing makes no new version.
        return copy.deepcopy(found if merged == found else self.put(merged))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None, *, dry_run: bool = False) -> None:
        del namespace
        self._ask("delete", kind, name, dry_run=dry_run)
        found = self.objects.get((kind.kind, name))
        if found is not None and uid in (None, found["metadata"]["uid"]) and not dry_run:
            del self.objects[kind.kind, name]

    def _there(self, kind: Kind, name: str) -> Object:
        if (kind.kind, name) not in self.objects:
            raise NotFound(404, "NotFound", "it is not there")
        return self.objects[kind.kind, name]

    def _ask(self, verb: str, kind: Kind, name: str, *, dry_run: bool = False) -> None:
        verb = f"try {verb}" if dry_run else verb
        self.calls.append((verb, kind.kind, name))
        fault = self.fault(verb, kind.kind)
        if fault is not None:
            raise fault


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result
