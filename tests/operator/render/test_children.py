"""All objects of a cluster: their order, what can never change in them, and which of the live ones go."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.render import KINDS, Object, RenderInput, children, kind_of, migration_job, to_prune

from tests.support.rendered_clusters import EVERYTHING, LEAST, all_objects, cluster, find, least

OPTIONAL: dict[str, dict[str, Any]] = {
    "NetworkPolicy": {"networkPolicy": {"mode": "Off"}},
    "Ingress": {"gateway": {}},
    "ServiceMonitor": {"monitoring": {"serviceMonitor": "Disabled"}},
}


def names(objects: Any) -> list[tuple[str, str]]:
    """Kind and name of each."""
    return [(each["kind"], each["metadata"]["name"]) for each in objects]


def test_the_least_cluster_has_these() -> None:
    """In the order in which they are applied: Services before the workers."""
    assert names(children(cluster())) == [
        ("NetworkPolicy", "chat"),
        ("Service", "chat-workers"),
        ("Service", "chat"),
        ("PodDisruptionBudget", "chat"),
        ("StatefulSet", "chat"),
    ]
    assert names(children(cluster(EVERYTHING)))[-2:] == [("Ingress", "chat"), ("ServiceMonitor", "chat")]


def test_the_order_is_that_of_the_kinds() -> None:
    """The order of kinds is the order of an apply."""
    order = [KINDS.index(kind_of(each)) for each in children(cluster(EVERYTHING))]
    assert order == sorted(order)
    assert {kind_of(each) for each in all_objects(cluster(EVERYTHING))} == set(KINDS)


def test_the_secrets_are_no_children() -> None:
    """They are made and deleted, never applied."""
    assert "Secret" not in dict(names(children(cluster())))


@pytest.mark.parametrize(
    ("mode", "known", "made"),
    [("Auto", False, 0), ("Auto", True, 1), ("Enabled", False, 1), ("Disabled", True, 0)],
)
def test_a_service_monitor_is_made_where_it_is_known(mode: str, known: bool, made: int) -> None:
    """Or demanded."""
    wanted = least(monitoring={"serviceMonitor": mode})._replace(service_monitors=known)
    assert names(children(wanted)).count(("ServiceMonitor", "chat")) == made


def test_what_was_there_and_is_wanted_no_more_goes() -> None:
    """The optional objects, and the migration of before."""
    before = all_objects(cluster(EVERYTHING))
    for kind, change in OPTIONAL.items():
        after = cluster({**EVERYTHING, **change})
        assert names(to_prune(after, before, all_objects(after))) == [(kind, "chat")]
    after = cluster({**EVERYTHING, "image": "registry.example/threadcluster:2"})
    assert names(to_prune(after, before, all_objects(after))) == names([migration_job(cluster(EVERYTHING))])


def test_the_workers_the_secret_and_the_services_go_with_the_cluster_alone() -> None:
    """Whatever is wanted."""
    renamed = [{**each, "metadata": {**each["metadata"], "name": "x"}} for each in all_objects(cluster(EVERYTHING))]
    gone = {kind for kind, _ in names(to_prune(cluster(EVERYTHING), renamed, all_objects(cluster(EVERYTHING))))}
    assert gone == {"NetworkPolicy", "Job", "Ingress", "ServiceMonitor"}


@pytest.mark.parametrize(
    "change",
    [
        {"ownerReferences": [{"uid": "another-owner", "controller": True}]},
        {"ownerReferences": [{"uid": cluster().uid, "controller": False}]},
        {"ownerReferences": None},
        {"deletionTimestamp": "2026-05-01T12:00:00Z"},
    ],
    ids=["another owner", "no controller", "no owner", "on its way"],
)
def test_nothing_else_is_deleted(change: dict[str, Any]) -> None:
    """The operator deletes neither foreign objects nor objects that are being deleted."""
    ingress = find(cluster(EVERYTHING), "Ingress")
    metadata = {key: value for key, value in {**ingress["metadata"], **change}.items() if value is not None}
    assert to_prune(cluster(), [{**ingress, "metadata": metadata}], all_objects(cluster())) == []


def immutable(wanted: RenderInput) -> Object:
    """Fields that the API server refuses to change."""
    workers = find(wanted, "StatefulSet")["spec"]
    kept = {key: workers.get(key) for key in ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates")}
    return {**kept, "clusterIP": find(wanted, "Service", "chat-workers")["spec"]["clusterIP"]}


SPECS = st.fixed_dictionaries(
    {name: st.just(value) for name, value in LEAST.items()},
    optional={name: st.just(value) for name, value in EVERYTHING.items() if name not in (*LEAST, "shards")},
)


@given(spec=SPECS, replicas=st.integers(0, 64), partition=st.integers(0, 64))
def test_whatever_is_edited_what_cannot_change_does_not(spec: dict[str, Any], replicas: int, partition: int) -> None:
    """Every edit can be applied to what is there."""
    edited = cluster(spec, replicas=replicas, partition=partition)
    assert immutable(edited) == immutable(cluster())
    assert {each["metadata"]["name"] for each in children(edited)} == {"chat", "chat-workers"}


def test_the_longest_name_leaves_every_name_short_enough() -> None:
    """A label has 63 characters, and Kubernetes appends to some names."""
    wanted = cluster(EVERYTHING, name="c" * 40)
    for made in all_objects(wanted):
        assert len(made["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in made["metadata"]["labels"].values())
    revision = f"{find(wanted, 'StatefulSet')['metadata']['name']}-0123456789"
    assert len(revision) <= 63
