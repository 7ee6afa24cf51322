"""The cache of the watches: the last known state of every object that concerns a cluster, found by cluster.

The cache may be stale, and after a broken watch it may still hold deleted objects; `replace` corrects it from a full list.
The operator adds the objects that it writes at once, so that a reconcile that follows a write never sees the state before.

Watches, lists and the answers to writes arrive in any order.  Versions put them in order: those of one API server grow with
every change.  An older state never replaces a newer one, and no state from before its deletion brings an object back; one
from after it does, as when the labels by which the object is watched were taken off and put on again.
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
"""Maximum number of deletions that are remembered: many more than there are between the request of a list and its answer."""
_NOT_WATCHED: Final = frozenset({"managedFields"})
_OF_POD_META: Final = (
    *("namespace", "name", "uid", "resourceVersion", "labels"),
    *("creationTimestamp", "deletionTimestamp", "ownerReferences"),
)
_OF_POD_STATUS: Final = (
    *("phase", "podIP", "conditions", "containerStatuses", "initContainerStatuses"),
    *("reason", "message"),
)
"""The fields of a pod's status that `snapshot` and `diagnosis` read."""


class Cache:
    """All objects that are watched.  `put` and `drop` say which cluster they concern."""

    def __init__(self) -> None:
        self.resources: dict[Key, Object] = {}
        self._objects: dict[Key, dict[tuple[str, str], Object]] = defaultdict(dict)
        """By cluster, then by kind and name."""
        self._events: dict[Key, dict[str, Object]] = defaultdict(dict)
        self._places: dict[str, tuple[Key, tuple[str, str]]] = {}
        """Where each object is in `_objects`, by its uid."""
        self._gone: OrderedDict[str, int] = OrderedDict()
        """The uids of what was dropped lately, each with the version of its deletion."""

    def put(self, given: Mapping[str, Any]) -> Key | None:
        """Take an object in, unless a newer one is here; the cluster that it concerns."""
        uid, version = given["metadata"]["uid"], int(given["metadata"]["resourceVersion"])
        if version <= self._gone.get(uid, -1):
            return None
        self._gone.pop(uid, None)
        body = trim(given)
        kind = body["kind"]
        if kind == "ThreadCluster":
            key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
            if not _is_older(body, self.resources.get(key)):
                self.resources[key] = body
            return key
        if kind == "Event":
            return self._put_event(body)
        cluster = _cluster_of(body)
        place = (kind, body["metadata"]["name"])
        known = self._known(uid)
        if known is not None and _is_older(body, known):
            return cluster
        before = self._objects[cluster].get(place) if cluster is not None else None
        if _is_older(body, before):
            return cluster  # a late state of a predecessor of that name
        if known is not None and self._places[uid] != (cluster, place):
            self._remove(uid)  # it has become another cluster's, or no cluster's
        if cluster is not None:
            if before is not None and before["metadata"]["uid"] != uid:
                self._places.pop(before["metadata"]["uid"], None)
            self._objects[cluster][place] = body
            self._places[uid] = cluster, place
        return cluster

    def is_edit(self, given: Mapping[str, Any]) -> bool:
        """Whether an event shows a ThreadCluster whose spec is another than the one that is here."""
        if given["kind"] != "ThreadCluster":
            return False
        meta = given["metadata"]
        known = self.resources.get(Key(meta["namespace"], meta["name"]))
        return known is not None and bool(meta.get("generation", 1) > known["metadata"].get("generation", 1))

    def drop(self, given: Mapping[str, Any], version: str | None = None) -> Key | None:
        """An object is gone, as of a version or of its own; the cluster that it concerned."""
        kind, meta = given["kind"], given["metadata"]
        uid, gone = meta["uid"], int(version if version is not None else meta["resourceVersion"])
        self._gone[uid] = max(gone, self._gone.get(uid, -1))
        self._gone.move_to_end(uid)
        if len(self._gone) > _GONE_MOST:
            self._gone.popitem(last=False)
        if kind == "ThreadCluster":
            key = Key(meta["namespace"], meta["name"])
            if not _is_newer(self.resources.get(key, given), uid, gone):
                self.resources.pop(key, None)
            return key
        if kind == "Event":
            for events in self._events.values():
                events.pop(uid, None)
            return None
        known = self._known(uid)
        # A list may have brought it back before the event of its deletion arrives: its labels were put on again.
        return None if known is None or _is_newer(known, uid, gone) else self._remove(uid)

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
                key = self.drop(each, version)
                changed |= set() if key is None else {key}
        versions = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in known}
        for uid, each in present.items():
            if versions.get(uid) != each["metadata"]["resourceVersion"]:
                changed |= {key for key in (self.cluster_of(uid), self.put(each)) if key is not None}
        return changed

    def cluster_of(self, uid: str) -> Key | None:
        """The cluster whose object this is; None for an object that is not here."""
        return self._places[uid][0] if uid in self._places else None

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

    def _known(self, uid: str) -> Object | None:
        if uid not in self._places:
            return None
        key, place = self._places[uid]
        return self._objects[key][place]

    def _remove(self, uid: str) -> Key | None:
        if uid not in self._places:
            return None
        key, place = self._places.pop(uid)
        del self._objects[key][place]
        return key

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


def _is_newer(one: Mapping[str, Any], uid: str, version: int) -> bool:
    """Whether an object is another one, or a later state."""
    return bool(one["metadata"]["uid"] != uid or int(one["metadata"]["resourceVersion"]) > version)


def _is_older(one: Mapping[str, Any], than: Mapping[str, Any] | None) -> bool:
    """Whether an object is an earlier state of the same one, or of one that had its name before; versions only grow."""
    return than is not None and int(one["metadata"]["resourceVersion"]) < int(than["metadata"]["resourceVersion"])


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
