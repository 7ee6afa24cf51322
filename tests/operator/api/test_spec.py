"""The resource, read: strictly where a person wrote it, leniently where an API server kept it."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from threadcluster_operator.api import (
    InvalidResource,
    InvalidSpec,
    NetworkPeer,
    ThreadClusterSpec,
    ThreadClusterStatus,
    parse_resources,
    parse_spec,
    without_local_effect,
)

from tests.support.bad_documents import BAD, GOOD, Bad
from tests.support.pod_specs import WHOLE_POD_SPEC

CLUSTER = {"apiVersion": "threadcluster.io/v1alpha1", "kind": "ThreadCluster", "metadata": {"name": "chat"}}


def local(spec: dict[str, Any]) -> ThreadClusterSpec:
    """Specs as the local platform reads them."""
    return parse_resources(yaml.safe_dump({**CLUSTER, "spec": spec}), "file").cluster.spec


def test_what_is_left_out_has_the_defaults_of_the_reference() -> None:
    """The operator and the local platform act on the same."""
    spec = parse_spec({**CLUSTER, "spec": GOOD})
    assert (spec.shards, spec.replicas, spec.paused, spec.autoscaling) == (144, 3, False, None)
    assert (spec.database.url_secret_key_ref.key, spec.database.tls.mode) == ("url", "VerifyFull")
    assert spec.database.max_connections_per_worker == 12
    assert (spec.worker.passivation.idle_seconds, spec.worker.snapshot_every_events) == (120, 100)
    assert (spec.rollout.surge, spec.rollout.min_ready_seconds, spec.rollout.canary.observe_seconds) == (0, 5, 30)
    assert (spec.drain.timeout_seconds, spec.drain.load_balancer_seconds) == (30, 15)
    assert (spec.gateway.service.type, spec.gateway.service.port, spec.gateway.ingress) == ("ClusterIP", 80, None)
    assert (spec.network_policy.mode, spec.monitoring.service_monitor) == ("Ingress", "Auto")
    assert local(GOOD).model_dump() == spec.model_dump()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_the_operator_says_field_and_reason(bad: Bad) -> None:
    """It checks by itself what the API server checks: an object may be older than its schema."""
    with pytest.raises(InvalidSpec) as refused:
        parse_spec({**CLUSTER, "spec": bad.spec})
    assert len(refused.value.failures) == 1
    assert refused.value.failures[0].startswith(bad.own_field)
    assert (bad.own_reason or bad.reason) in refused.value.failures[0]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_the_local_platform_checks_the_same(bad: Bad) -> None:
    """But for what it brings itself."""
    if bad.local:
        with pytest.raises(InvalidResource) as refused:
            local(bad.spec)
        assert bad.own_field in str(refused.value)
        assert (bad.own_reason or bad.reason) in str(refused.value)
    else:
        assert local(bad.spec)


def test_a_pin_of_no_shard_is_named_by_its_place() -> None:
    """Each of them."""
    pins = [{"shard": 2, "worker": "chat-0"}, {"shard": 1, "worker": "chat-0"}, {"shard": 3, "worker": "chat-1"}]
    with pytest.raises(InvalidSpec) as refused:
        parse_spec({**CLUSTER, "spec": {**GOOD, "shards": 2, "replicas": 2, "rebalance": {"pins": pins}}})
    assert refused.value.failures == [
        f"spec.rebalance.pins.{place}.shard: the cluster has shards 0 to 1 (given: {shard})"
        for place, shard in ((0, 2), (2, 3))
    ]


def test_all_failures_are_reported_at_once() -> None:
    """One correction suffices for all of them."""
    with pytest.raises(InvalidSpec) as refused:
        parse_spec({"spec": {"shards": 0, "replicas": -1, "rollout": {"surge": 2}}})
    fields = [failure.partition(":")[0] for failure in refused.value.failures]
    assert fields == ["spec.shards", "spec.replicas", "spec.image", "spec.database", "spec.rollout.surge"]


@pytest.mark.parametrize("document", [{}, {"spec": None}, {"spec": {}}], ids=["absent", "null", "empty"])
def test_no_spec_is_one_without_an_image(document: dict[str, Any]) -> None:
    """The reason is the same as where the rest is there."""
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(document)
    assert refused.value.failures == ["spec.image: Required value", "spec.database: Required value"]
    assert str(refused.value) == "spec.image: Required value\nspec.database: Required value"


def test_a_newer_resource_does_not_stop_an_older_operator() -> None:
    """Fields that it does not know are ignored at every depth; those that it knows count."""
    newer = {
        **GOOD,
        "colour": "red",
        "database": {"urlSecretKeyRef": {"name": "db", "version": 2}, "pool": {"size": 3}},
        "rebalance": {"pins": [{"shard": 3, "worker": "chat-1", "until": "tomorrow"}], "speed": 9},
        "worker": {
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}]
        },
    }
    spec = parse_spec({**CLUSTER, "spec": newer})
    assert (spec.rebalance.pins[0].shard, spec.rebalance.pins[0].worker) == (3, "chat-1")
    assert spec.model_dump() == ThreadClusterSpec.model_validate(newer, extra="ignore").model_dump()
    with pytest.raises(InvalidResource, match=r"spec\.rebalance\.pins\.0\.until: unknown field"):
        local(newer)


def test_fields_have_one_name() -> None:
    """That of the API: what Python calls them is not for files."""
    with pytest.raises(InvalidResource, match=r"spec\.worker\.snapshot_every_events: unknown field"):
        local({"worker": {"snapshot_every_events": 5}})
    assert parse_spec({"spec": {**GOOD, "worker": {"snapshot_every_events": 5}}}).worker.snapshot_every_events == 100


@pytest.mark.parametrize("given", [1, 0, "500m", "2Gi", "1.5", "1e3", "+1", ".5M", "1" * 32], ids=str)
def test_quantities_are_kubernetes_own(given: int | str) -> None:
    """A number or a text, kept as it was written."""
    spec = local({"worker": {"resources": {"requests": {"cpu": given}}}})
    assert spec.worker.resources.requests == {"cpu": given}


@pytest.mark.parametrize("given", [-1, 0.5, True, "half", "", "1 Gi", "-1", "1Gb", "1" * 33, [1]], ids=repr)
def test_what_is_no_quantity_is_refused(given: object) -> None:
    """With an example of what would be."""
    with pytest.raises(InvalidResource, match="a quantity is wanted, as Kubernetes writes them: 500m, 2Gi, 4"):
        local({"worker": {"resources": {"requests": {"cpu": given}}}})


@pytest.mark.parametrize(
    "given",
    [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"a": "b"}}},
        {"podSelector": {}, "namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    ],
    ids=["pods", "namespaces", "pods-of-namespaces", "addresses"],
)
def test_a_peer_of_one_kind_goes_back_to_kubernetes_as_it_came(given: dict[str, Any]) -> None:
    """An empty selector, which is everything, is not a missing one."""
    peer = NetworkPeer.model_validate(given)
    assert peer.model_dump(by_alias=True, exclude_unset=True) == given


def test_what_is_kubernetes_own_goes_back_as_it_came() -> None:
    """Every field of it, and nothing that was not given."""
    spec = local({"podTemplate": {"spec": WHOLE_POD_SPEC}}).pod_template.spec
    assert spec.model_dump(by_alias=True, exclude_none=True, exclude_unset=True) == WHOLE_POD_SPEC


def test_a_field_that_kubernetes_has_and_the_schema_does_not_is_refused() -> None:
    """In a file by its name; an object of the API has none, because its server prunes them."""
    template = {"spec": {"affinity": {"nodeAffinity": {"anything": [{"goes": 1}]}}}}
    with pytest.raises(InvalidResource, match=r"affinity\.nodeAffinity\.anything: unknown field"):
        local({"podTemplate": template})
    assert parse_spec({"spec": {**GOOD, "podTemplate": template}}).pod_template.spec.affinity is not None


def test_fields_without_effect_here_are_reported() -> None:
    """A file made for Kubernetes is accepted, with a list of the ignored fields."""
    given = {
        **GOOD,
        "shards": 4,
        "worker": {"env": [], "snapshotEveryEvents": 5},
        "gateway": {"service": {"type": "NodePort"}},
    }
    given["database"] = {**GOOD["database"], "clusterID": "a"}
    given["replicas"] = 2
    assert without_local_effect(local(given), "spec") == [
        "spec.database.clusterID",
        "spec.gateway.service.type",
        "spec.image",
        "spec.worker.env",
    ]
    assert without_local_effect(local({}), "spec") == []


def test_a_status_may_be_empty_or_whole() -> None:
    """Before the operator has looked there is nothing to say."""
    assert ThreadClusterStatus.model_validate({}).conditions == []
    twice = [{"name": "chat-0"}, {"name": "chat-0"}]
    with pytest.raises(ValidationError, match="item 0 has this name already"):
        ThreadClusterStatus.model_validate({"workers": twice})


def parts(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """A model and all models in it."""
    if model not in seen:
        seen.add(model)
        yield model
        for field in model.model_fields.values():
            for found in _models_in(field.annotation):
                yield from parts(found, seen)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # typing's own forms
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


@pytest.mark.parametrize("root", [ThreadClusterSpec, ThreadClusterStatus])
def test_every_part_is_frozen_and_closed(root: type[BaseModel]) -> None:
    """The input of a plan cannot change under it."""
    found = list(parts(root, set()))
    assert len(found) > 4
    assert all(part.model_config["frozen"] and part.model_config["extra"] == "forbid" for part in found)
