"""Bounds of the specs of ThreadClusters: each bound by its flag, each refusal by the name of its field."""

from typing import Any

import pytest
from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller.tenant_policy import TenantPolicy, violations

from tests.support.rendered_clusters import EVERYTHING, LEAST

NO_LIMIT = TenantPolicy()


def refused(policy: TenantPolicy, **changes: Any) -> list[str]:
    """The fields of the least spec with changes that a policy refuses."""
    found = violations(parse_spec({"spec": {**LEAST, **changes}}), policy)
    assert all(": " in each for each in found)
    return [each.partition(": ")[0] for each in found]


def template(**security_context: Any) -> dict[str, Any]:
    """A pod template with a security context."""
    return {"spec": {"securityContext": security_context}}


def test_without_flags_only_the_pods_security_is_bounded() -> None:
    """The operator's defaults refuse nothing else of all that there is."""
    assert violations(parse_spec({"spec": EVERYTHING}), NO_LIMIT) == []


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/team/chat:1", ("registry.example/team",)),
        ("registry.example/team/chat:1", ("registry.example/team/",)),
        ("registry.example/team/chat:1", ("elsewhere.example", "registry.example/team/chat")),
        ("registry.example/team/chat@sha256:aa", ("registry.example/team/chat",)),
        ("registry.example/team/chat", ("registry.example/team/chat",)),
        ("registry.example:5000/chat", ("registry.example:5000",)),
    ],
)
def test_an_image_below_a_prefix_is_allowed(image: str, allowed: tuple[str, ...]) -> None:
    """Whole parts count, with or without the slash."""
    assert refused(TenantPolicy(images=allowed), image=image) == []


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/teammate/chat:1", ("registry.example/team",)),
        ("registry.example.evil.example/team/chat", ("registry.example",)),
        ("chat:1", ("registry.example/",)),
        ("registry.example/team", ("registry.example/team/",)),
        ("chat:1", ("",)),
    ],
)
def test_any_other_image_is_refused(image: str, allowed: tuple[str, ...]) -> None:
    """A prefix that ends within a part of a name is another name."""
    assert refused(TenantPolicy(images=allowed), image=image) == ["spec.image"]


def test_the_refusal_says_what_is_allowed() -> None:
    """For the author, who does not see the operator's flags."""
    [text] = violations(parse_spec({"spec": LEAST}), TenantPolicy(images=("a.example", "b.example")))
    assert text.endswith("is not allowed here; the operator allows these images: a.example, b.example")
    [text] = violations(parse_spec({"spec": LEAST}), TenantPolicy(images=("",)))
    assert text.endswith("images: none")
    asked = {
        **LEAST,
        "gateway": {"service": {"type": "NodePort", "annotations": {"a.example/x": "1"}}},
        "podTemplate": {"spec": {"priorityClassName": "high"}},
    }
    policy = TenantPolicy(service_types=("ClusterIP",), annotations=("b.example/*",), priority_classes=("low",))
    found = [
        text.partition(" is not allowed here; the operator allows these ")
        for text in violations(parse_spec({"spec": asked}), policy)
    ]
    assert [(given, allowed) for given, _, allowed in found] == [
        ("spec.gateway.service.type: 'NodePort'", "types: ClusterIP"),
        ("spec.gateway.service.annotations.a.example/x: 'a.example/x'", "annotations: b.example/*"),
        ("spec.podTemplate.spec.priorityClassName: 'high'", "priority classes: low"),
    ]


def test_service_types_are_bounded() -> None:
    """The default type is one of them, or the spec is refused too."""
    policy = TenantPolicy(service_types=("ClusterIP",))
    assert refused(policy) == []
    assert refused(policy, gateway={"service": {"type": "LoadBalancer"}}) == ["spec.gateway.service.type"]
    assert refused(TenantPolicy(service_types=("NodePort",))) == ["spec.gateway.service.type"]


def test_annotations_are_bounded_wherever_they_are() -> None:
    """Controllers of the cluster act on them by their own rights."""
    annotated = {"metadata": {"annotations": {"example.com/pod": "x"}}}
    gateway = {
        "service": {"annotations": {"example.com/service": "x", "service.example/internal": "true"}},
        "ingress": {"annotations": {"example.com/ingress": "x"}},
    }
    policy = TenantPolicy(annotations=("service.example/*",))
    assert refused(policy, podTemplate=annotated, gateway=gateway) == [
        "spec.gateway.service.annotations.example.com/service",
        "spec.gateway.ingress.annotations.example.com/ingress",
        "spec.podTemplate.metadata.annotations.example.com/pod",
    ]
    named = TenantPolicy(annotations=("example.com/pod",))
    assert refused(named, podTemplate=annotated) == []
    assert refused(TenantPolicy(annotations=("",)), podTemplate=annotated) != []
    assert refused(TenantPolicy(annotations=("service.example/*", "example.com/pod")), podTemplate=annotated) == []


@pytest.mark.parametrize("name", ["s.example/internal", "service.examples/internal", "my.service.example/internal"])
def test_a_pattern_of_annotations_is_a_beginning(name: str) -> None:
    """All of it, and of nothing but the beginning."""
    annotated = {"service": {"annotations": {name: "x"}}}
    [field] = refused(TenantPolicy(annotations=("service.example/*",)), gateway=annotated)
    assert field == f"spec.gateway.service.annotations.{name}"


def test_priority_classes_are_bounded() -> None:
    """No class is always allowed."""
    policy = TenantPolicy(priority_classes=("low",))
    assert refused(policy) == []
    assert refused(policy, podTemplate={"spec": {"priorityClassName": "low"}}) == []
    field = "spec.podTemplate.spec.priorityClassName"
    assert refused(policy, podTemplate={"spec": {"priorityClassName": "system-node-critical"}}) == [field]


RUNTIME = "must be one of RuntimeDefault, Localhost"
TYPES = "must be one of container_t, container_init_t, container_kvm_t, container_engine_t"
SYSCTLS = [{"name": "net.ipv4.tcp_rmem", "value": "1"}, {"name": "kernel.msgmax", "value": "1"}]
WRONG = [
    ("runAsNonRoot", {"runAsNonRoot": False}, "must not be false"),
    ("runAsUser", {"runAsUser": 0}, "must not be 0"),
    ("seccompProfile.type", {"seccompProfile": {"type": "Unconfined"}}, RUNTIME),
    ("appArmorProfile.type", {"appArmorProfile": {"type": "Unconfined"}}, RUNTIME),
    ("seLinuxOptions.type", {"seLinuxOptions": {"type": "spc_t"}}, TYPES),
    ("seLinuxOptions.user", {"seLinuxOptions": {"user": "system_u"}}, "must not be set"),
    ("seLinuxOptions.role", {"seLinuxOptions": {"role": "system_r"}}, "must not be set"),
    ("sysctls.1.name", {"sysctls": SYSCTLS}, "'kernel.msgmax' is not safe for other pods of the node"),
]
RIGHT = [
    {},
    {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 0, "fsGroup": 0, "supplementalGroups": [0]},
    {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}, "appArmorProfile": {"type": "RuntimeDefault"}},
    {"seLinuxOptions": {"type": "container_t", "level": "s0:c1,c2"}},
]


@pytest.mark.parametrize(("field", "context", "reason"), WRONG, ids=[field for field, _, _ in WRONG])
def test_more_than_restricted_is_refused_unless_a_flag_allows_it(
    field: str, context: dict[str, Any], reason: str
) -> None:
    """By the field, as the Pod Security Standard names it."""
    [text] = violations(parse_spec({"spec": {**LEAST, "podTemplate": template(**context)}}), NO_LIMIT)
    assert text == (
        f"spec.podTemplate.spec.securityContext.{field}: {reason}, as the restricted Pod Security Standard has it; the"
        " operator's --pod-security allows no more"
    )
    assert refused(TenantPolicy(privileged=True), podTemplate=template(**context)) == []


@pytest.mark.parametrize("context", RIGHT)
def test_what_restricted_allows_is_allowed(context: dict[str, Any]) -> None:
    """Groups and identities of the user's own."""
    assert refused(NO_LIMIT, podTemplate=template(**context)) == []
