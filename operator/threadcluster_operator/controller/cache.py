"""The cache of the watches: the last known state of every object that concerns a cluster, found by cluster.

The cache may be stale, and after a broken watch it may still hold deleted objects; `replace` corrects it from a full list.
The operator adds the objects that it writes at once, so that a reconcile that follows a write never sees the state before.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from threadcluster_operator.controller.snapshot import Key, Object
from threadcluster_operator.render import selector_of

INSTANCE: Final = "app.kubernetes.io/instance"
MANAGED: Final[Mapping[str, str]] = {name: value for name, value in selector_of("").items() if name != INSTANCE}
"""The labels of everything that belongs to some cluster."""

_GONE_MOST: Final = 10_000
_NOT_WATCHED: Final = frozenset({"managedFields"})
_OF_POD_META: Final = (
    *("namespace", "name", "uid", "resourceVersion", "labels"),
    *("creationTimestamp", "deletionTimestamp", "ownerReferences"),
)
_OF_POD_STATUS: Final = ("phase", "podIP", "conditions", "containerStatuses")
"""The fields of a pod's status that `snapshot` and `diagnosis` read."""


class Cache:
    """All objects that are watched.  `put` and `drop` say which cluster they concern."""

    def __init__(self) -> None:
        self.resources: dict[Key, Object] = {}
        self._objects: dict[Key, dict[tuple[str, str], Object]] = defaultdict(dict)
        """By cluster, then by kind and name."""
        self._events: dict[Key, dict[str, Object]] = defaultdict(dict)
        self._gone: OrderedDict[str, None] = OrderedDict()
        """The uids of what was dropped lately: a list that was asked for before may still bring it."""

    def put(self, given: Mapping[str, Any]) -> Key | None:
        """Take an object in, unless a newer one is here; the cluster that it concerns."""
        if given["metadata"]["uid"] in self._gone:
            return None
        body = trim(given)
        kind = body["kind"]
        if kind == "ThreadCluster":
            key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
            if not _is_older(body, self.resources.get(key)):
                self.resources[key] = body
            return key
        if kind == "Event":
            return self._put_event(body)
        key_or_none = _cluster_of(body)
        if key_or_none is not None:
            objects = self._objects[key_or_none]
            place = (kind, body["metadata"]["name"])
            if not _is_older(body, objects.get(place)):
                objects[place] = body
        return key_or_none

    def drop(self, given: Mapping[str, Any]) -> Key | None:
        """An object is gone; the cluster that it concerned."""
        kind, meta = given["kind"], given["metadata"]
        self._gone[meta["uid"]] = None
        if len(self._gone) > _GONE_MOST:
            self._gone.popitem(last=False)
        if kind == "ThreadCluster":
            key = Key(meta["namespace"], meta["name"])
            if self.resources.get(key, given)["metadata"]["uid"] == meta["uid"]:
                self.resources.pop(key, None)
            return key
        if kind == "Event":
            for events in self._events.values():
                events.pop(meta["uid"], None)
            return None
        found = _cluster_of(given)
        if found is not None:
            objects = self._objects[found]
            place = (kind, meta["name"])
            if place in objects and objects[place]["metadata"]["uid"] == meta["uid"]:
                del objects[place]
        return found

    def replace(self, kind: str, listed: Iterable[Mapping[str, Any]], version: str) -> set[Key]:
        """Take a full list of a kind for what there was at a version; the clusters of which something was missed."""
        present = {each["metadata"]["uid"]: each for each in listed}
        changed: set[Key] = set()
        known = (
            list(self.resources.values())
            if kind == "ThreadCluster"
            else [each for objects in self._objects.values() for (its, _), each in objects.items() if its == kind]
        )
        each: Mapping[str, Any]
        for each in known:
            missing = each["metadata"]["uid"] not in present
            if missing and int(each["metadata"]["resourceVersion"]) <= int(version):
                key = self.drop(each)
                changed |= set() if key is None else {key}
        versions = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in known}
        for uid, each in present.items():
            if versions.get(uid) != each["metadata"]["resourceVersion"] and (key := self.put(each)) is not None:
                changed.add(key)
        return changed

    def children(self, key: Key) -> tuple[Object, ...]:
        """Everything of a cluster but its pods."""
        return tuple(each for (kind, _), each in self._objects[key].items() if kind != "Pod")

    def pods(self, key: Key) -> tuple[Object, ...]:
        """All pods of a cluster."""
        return tuple(each for (kind, _), each in self._objects[key].items() if kind == "Pod")

    def warnings(self, key: Key) -> tuple[Object, ...]:
        """Events about its objects."""
        return tuple(self._events[key].values())

    def forget(self, key: Key) -> None:
        """A cluster is gone with all that it had."""
        if not self._objects[key]:
            del self._objects[key]
        self._events.pop(key, None)

    def _put_event(self, event: Object) -> Key | None:
        """Events carry no labels of ours: they belong to the cluster whose object they are about."""
        about = event.get("involvedObject", {})
        place = (about.get("kind", ""), about.get("name", ""))
        for key, objects in self._objects.items():
            if key.namespace == about.get("namespace") and place in objects:
                self._events[key][event["metadata"]["uid"]] = event
                return key
        return None


def _cluster_of(given: Mapping[str, Any]) -> Key | None:
    meta = given["metadata"]
    labels = meta.get("labels") or {}
    if INSTANCE in labels and all(labels.get(name) == value for name, value in MANAGED.items()):
        return Key(meta["namespace"], labels[INSTANCE])
    return None


def _is_older(one: Mapping[str, Any], than: Mapping[str, Any] | None) -> bool:
    """Whether an object is an earlier state of the same one; versions are numbers that grow."""
    if than is None or one["metadata"]["uid"] != than["metadata"]["uid"]:
        return False
    return int(one["metadata"]["resourceVersion"]) < int(than["metadata"]["resourceVersion"])


def trim(given: Mapping[str, Any]) -> Object:
    """An object without the fields that no module reads: managed fields are half of many objects, and pods are many."""
    meta = {name: value for name, value in given["metadata"].items() if name not in _NOT_WATCHED}
    if given["kind"] != "Pod":
        return {**given, "metadata": meta}
    spec, status = given.get("spec", {}), given.get("status", {})
    images = [{"image": each["image"]} for each in spec.get("containers", ()) if "image" in each]
    return {
        "kind": "Pod",
        "metadata": {name: meta[name] for name in _OF_POD_META if name in meta},
        "spec": {"containers": images} | ({"nodeName": spec["nodeName"]} if "nodeName" in spec else {}),
        "status": {name: status[name] for name in _OF_POD_STATUS if name in status},
    }
