"""The cache of watched objects, with events in any order."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from threadcluster_operator.controller.cache import INSTANCE, Cache
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
    assert cache.put(pod("web-0", uid="pod-2", labels={})) is None
    assert names(cache) == ["chat-0"]
    assert cache.children(CHAT) == ()


def test_an_older_state_replaces_no_newer_one() -> None:
    """A write's own answer may be here before the watch brings what was before; another object of the name is another."""
    cache = Cache()
    cache.put(cluster(5))
    cache.put(cluster(4))
    assert cache.resources[CHAT]["metadata"]["resourceVersion"] == "5"
    cache.put(cluster(6, "cluster-2"))
    cache.put(cluster(5))
    assert cache.resources[CHAT]["metadata"]["uid"] == "cluster-2", "a late state of its predecessor"
    cache.put(pod(version=10))
    cache.put(pod(version=9))
    assert cache.pods(CHAT)[0]["metadata"]["resourceVersion"] == "10"
    cache.put(pod(version=12, uid="pod-2"))
    cache.put(pod(version=11))
    assert [each["metadata"]["uid"] for each in cache.pods(CHAT)] == ["pod-2"]
    assert cache.cluster_of("pod-1") is None


def test_what_is_gone_does_not_come_back_by_a_late_list() -> None:
    """A list from before a deletion may arrive after the event of the deletion."""
    cache = Cache()
    cache.put(pod())
    assert cache.drop(pod(version=3)) == CHAT
    assert cache.replace("Pod", [pod(version=2)], "2") == set()
    assert names(cache) == []
    cache.put(pod(uid="pod-2"))
    assert names(cache) == ["chat-0"], "a new pod of the name is another one"


def test_a_label_that_is_taken_off_and_put_on_again_brings_the_object_back() -> None:
    """A watch by labels shows that as a deletion, and as another object with the same uid and a higher version."""
    cache = Cache()
    cache.put(pod(version=1))
    assert cache.drop(pod(version=5)) == CHAT
    assert cache.put(pod(version=5)) is None, "the state of the deletion itself"
    assert cache.put(pod(version=6)) == CHAT
    assert names(cache) == ["chat-0"]
    cache.drop(pod(version=7))
    assert cache.replace("Pod", [pod(version=6)], "6") == set()
    assert names(cache) == []


def test_an_object_whose_labels_name_another_cluster_leaves_the_one_before() -> None:
    """Also by way of a list; an earlier state does not bring it back."""
    cache, other = Cache(), Key("talk", "other")
    cache.put(pod(version=1))
    moved = pod(version=2, labels=selector_of("other", "worker"))
    assert cache.cluster_of("pod-1") == CHAT
    assert cache.put(moved) == other
    assert (names(cache), len(cache.pods(other))) == ([], 1)
    cache.put(pod(version=1))
    assert (names(cache), len(cache.pods(other))) == ([], 1)
    assert cache.replace("Pod", [pod(version=3)], "3") == {CHAT, other}
    assert (names(cache), cache.pods(other)) == (["chat-0"], ())
    assert cache.put(pod(version=4, labels={})) is None
    assert (names(cache), cache.cluster_of("pod-1")) == ([], None)


def test_a_deletion_is_as_new_as_the_list_that_shows_it() -> None:
    """A state from between what was known and that list comes too late."""
    cache = Cache()
    cache.put(pod(version=1))
    assert cache.replace("Pod", [], "9") == {CHAT}
    assert cache.put(pod(version=5)) is None
    assert cache.put(pod(version=10)) == CHAT


class AnyOrder(RuleBasedStateMachine):
    """One API server with two objects; a cache that hears of them in any order, late, and not of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()
        self.version = 1
        self.there: dict[str, Object] = {}
        self.on_their_way: list[tuple[str, Object]] = []
        self.lists: list[tuple[list[Object], int]] = []

    @rule(uid=st.sampled_from("ab"), cluster_name=st.sampled_from(["chat", "other", None]))
    def change(self, uid: str, cluster_name: str | None) -> None:
        """An object is made, or gets other labels, or none of ours."""
        self.version += 1
        before = self.there.get(uid)
        labels = {} if cluster_name is None else selector_of(cluster_name, "worker")
        now = pod(f"chat-{uid}", self.version, uid, labels)
        self.there[uid] = now
        if cluster_name is not None:
            self.on_their_way.append(("MODIFIED", now))
        elif before is not None:
            self.on_their_way.append(("DELETED", {**before, "metadata": {**before["metadata"], **versioned(now)}}))

    @rule(uid=st.sampled_from("ab"))
    def delete(self, uid: str) -> None:
        """And its uid never comes again: the next one of the name is another."""
        if uid in self.there:
            self.version += 1
            gone = self.there.pop(uid)
            self.on_their_way.append(
                ("DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}})
            )

    @rule()
    def list_all(self) -> None:
        """A list is on its way."""
        listed = [each for each in self.there.values() if each["metadata"]["labels"]]
        self.lists.append((listed, self.version))

    @rule(which=st.integers(0, 20), lost=st.booleans())
    def tell(self, which: int, lost: bool) -> None:
        """One of the events arrives, or is lost in a gap."""
        if self.on_their_way:
            kind, body = self.on_their_way.pop(which % len(self.on_their_way))
            if not lost:
                self.cache.drop(body) if kind == "DELETED" else self.cache.put(body)

    @rule(which=st.integers(0, 20))
    def bring_list(self, which: int) -> None:
        """One of the lists arrives."""
        if self.lists:
            listed, version = self.lists.pop(which % len(self.lists))
            self.cache.replace("Pod", listed, str(version))

    def teardown(self) -> None:
        """Whatever came before: after a full list, and what is late, the cache is what there is."""
        listed = [each for each in self.there.values() if each["metadata"]["labels"]]
        self.cache.replace("Pod", listed, str(self.version))
        for kind, body in self.on_their_way:
            self.cache.drop(body) if kind == "DELETED" else self.cache.put(body)
        for earlier, version in self.lists:
            self.cache.replace("Pod", earlier, str(version))
        for name in ("chat", "other"):
            wanted = {
                each["metadata"]["uid"]: each["metadata"]["resourceVersion"]
                for each in self.there.values()
                if each["metadata"]["labels"].get(INSTANCE) == name
            }
            found = {
                each["metadata"]["uid"]: each["metadata"]["resourceVersion"]
                for each in self.cache.pods(Key("talk", name))
            }
            assert found == wanted


def versioned(body: Object) -> Object:
    """The version of an object, as part of its metadata."""
    return {"resourceVersion": body["metadata"]["resourceVersion"]}


def test_after_a_list_the_cache_is_what_there_is_whatever_came_in_any_order() -> None:
    """Events that are late, lost or doubled, and lists that overtake them."""
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=200, stateful_step_count=30, deadline=None))


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


def test_an_edit_is_another_generation_of_a_known_cluster() -> None:
    """Not what is new, nor another status, nor an object of another kind."""
    cache = Cache()

    def shown(version: int, generation: int, kind: str = "ThreadCluster") -> Object:
        meta = {
            "namespace": "talk",
            "name": "chat",
            "uid": "1",
            "resourceVersion": str(version),
            "generation": generation,
        }
        return {"kind": kind, "metadata": meta}

    assert not cache.is_edit(shown(1, 1))
    cache.put(shown(1, 1))
    assert not cache.is_edit(shown(2, 1))
    assert not cache.is_edit(shown(3, 2, "StatefulSet"))
    assert cache.is_edit(shown(3, 2))
