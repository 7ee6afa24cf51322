"""The cache of watched objects, with events in any order."""

from typing import Any

from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.snapshot import Key, Object
from threadcluster_operator.render import selector_of

CHAT = Key("talk", "chat")


def cluster(version: int = 1, uid: str = "cluster-1") -> Object:
    """A ThreadCluster."""
    meta = {"namespace": "talk", "name": "chat", "uid": uid, "resourceVersion": str(version), "managedFields": ["much"]}
    return {"kind": "ThreadCluster", "metadata": meta}


def pod(name: str = "chat-0", version: int = 1, uid: str = "pod-1", labels: Any = None) -> Object:
    """A pod of its."""
    meta = {
        "namespace": "talk",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "labels": selector_of("chat", "worker") if labels is None else labels,
    }
    return {"kind": "Pod", "metadata": meta}


def warning(uid: str = "event-1", about: str = "chat-0") -> Object:
    """An Event about a pod."""
    meta = {"namespace": "talk", "name": "x", "uid": uid, "resourceVersion": "1"}
    return {
        "kind": "Event",
        "metadata": meta,
        "involvedObject": {"kind": "Pod", "namespace": "talk", "name": about},
    }


def names(cache: Cache) -> list[str]:
    """The pods that are known."""
    return [each["metadata"]["name"] for each in cache.pods(CHAT)]


def test_an_object_is_found_by_its_cluster() -> None:
    """By its labels; objects without the operator's labels are ignored, and managed fields are not kept."""
    cache = Cache()
    assert cache.put(cluster()) == CHAT
    assert "managedFields" not in cache.resources[CHAT]["metadata"]
    assert cache.put(pod()) == CHAT
    assert cache.put(pod("web-0", labels={})) is None
    assert names(cache) == ["chat-0"]
    assert cache.children(CHAT) == ()


def test_an_older_state_replaces_no_newer_one() -> None:
    """A write's own answer may be here before the watch brings what was before; another object of the name is another."""
    cache = Cache()
    cache.put(cluster(5))
    cache.put(cluster(4))
    assert cache.resources[CHAT]["metadata"]["resourceVersion"] == "5"
    cache.put(cluster(1, "cluster-2"))
    assert cache.resources[CHAT]["metadata"]["uid"] == "cluster-2"
    cache.put(pod(version=10))
    cache.put(pod(version=9))
    assert cache.pods(CHAT)[0]["metadata"]["resourceVersion"] == "10"


def test_what_is_gone_does_not_come_back_by_a_late_list() -> None:
    """A list from before a deletion may arrive after the event of the deletion."""
    cache = Cache()
    cache.put(pod())
    assert cache.drop(pod(version=3)) == CHAT
    assert cache.replace("Pod", [pod(version=2)], "2") == set()
    assert names(cache) == []
    cache.put(pod(uid="pod-2"))
    assert names(cache) == ["chat-0"], "a new pod of the name is another one"


def test_a_late_deletion_event_does_not_remove_a_successor() -> None:
    """By uid."""
    cache = Cache()
    cache.put(cluster(9, "cluster-2"))
    cache.put(pod(uid="pod-2"))
    cache.drop(cluster(3))
    cache.drop(pod())
    assert CHAT in cache.resources
    assert names(cache) == ["chat-0"]


def test_a_full_list_mends_what_a_watch_has_missed() -> None:
    """An object that is not listed is gone, unless it is newer than the list."""
    cache = Cache()
    cache.put(pod("chat-0", 1, "a"))
    cache.put(pod("chat-1", 7, "b"))
    assert cache.replace("Pod", [pod("chat-2", 3, "c")], "5") == {CHAT}
    assert names(cache) == ["chat-1", "chat-2"]
    assert cache.replace("Pod", [pod("chat-1", 7, "b"), pod("chat-2", 3, "c")], "8") == set()
    cache.put(cluster())
    assert cache.replace("ThreadCluster", [], "9") == {CHAT}
    assert cache.resources == {}


def test_events_belong_to_the_cluster_whose_object_they_are_about() -> None:
    """They carry no labels; an event about an unknown object is ignored."""
    cache = Cache()
    assert cache.put(warning()) is None
    cache.put(pod())
    assert cache.put(warning("event-2")) == CHAT
    assert len(cache.warnings(CHAT)) == 1
    cache.drop(warning("event-2"))
    assert cache.warnings(CHAT) == ()


def test_a_cluster_that_is_gone_is_forgotten_with_all_it_had() -> None:
    """Objects that still are there stay known: they may be of the next one of that name."""
    cache = Cache()
    cache.put(pod())
    cache.put(warning())
    cache.forget(CHAT)
    assert cache.warnings(CHAT) == ()
    assert names(cache) == ["chat-0"]
    cache.drop(pod())
    cache.forget(CHAT)
    assert names(cache) == []
