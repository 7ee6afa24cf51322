"""Bounds that the operator's administrator sets to the specs of ThreadClusters: pure.

A ThreadCluster is made into pods by the operator's rights, not by those of its author.  Where authors are not trusted with all
that pods can be, flags of the operator bound it; a spec that asks for more is refused by the name of the field.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from threadcluster_operator.api import KubernetesSpec

_SAFE_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
"""As the Pod Security Standards have them."""
_PROFILES: Final = ("RuntimeDefault", "Localhost")
_SELINUX_TYPES: Final = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


class TenantPolicy(NamedTuple):
    """Bounds for every ThreadCluster.  An empty list bounds nothing; the empty text alone allows nothing."""

    images: tuple[str, ...] = ()
    """Prefixes of whole parts: ``registry.example/team`` allows ``registry.example/team/chat:1``, not ``…/teammate``."""
    service_types: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    """Names; one that ends with ``*`` allows every name that begins so."""
    priority_classes: tuple[str, ...] = ()
    privileged: bool = False
    """Whether a security context may ask for more than the restricted Pod Security Standard allows."""


def violations(spec: KubernetesSpec, policy: TenantPolicy) -> list[str]:
    """The parts of a spec that the policy does not allow, each as "field: reason"."""
    return list(_violations(spec, policy))


def _violations(spec: KubernetesSpec, policy: TenantPolicy) -> Iterator[str]:
    if policy.images and not any(_is_below(spec.image, prefix) for prefix in policy.images):
        yield _refusal("spec.image", spec.image, "images", policy.images)
    service = spec.gateway.service
    if policy.service_types and service.type not in policy.service_types:
        yield _refusal("spec.gateway.service.type", service.type, "types", policy.service_types)
    ingress = spec.gateway.ingress
    template = spec.pod_template
    for field, annotations in (
        ("spec.gateway.service.annotations", service.annotations),
        ("spec.gateway.ingress.annotations", {} if ingress is None else ingress.annotations),
        ("spec.podTemplate.metadata.annotations", template.metadata.annotations),
    ):
        for name in annotations if policy.annotations else ():
            if not any(_matches(name, pattern) for pattern in policy.annotations):
                yield _refusal(f"{field}.{name}", name, "annotations", policy.annotations)
    priority_class = template.spec.priority_class_name
    if policy.priority_classes and priority_class is not None and priority_class not in policy.priority_classes:
        field = "spec.podTemplate.spec.priorityClassName"
        yield _refusal(field, priority_class, "priority classes", policy.priority_classes)
    context = template.spec.security_context
    if not policy.privileged and context is not None:
        for field, reason in _beyond_restricted(context.model_dump(by_alias=True, exclude_none=True)):
            yield (
                f"spec.podTemplate.spec.securityContext.{field}: {reason}, as the restricted Pod Security Standard has it;"
                " the operator's --pod-security allows no more"
            )


def _is_below(image: str, prefix: str) -> bool:
    if not prefix or not image.startswith(prefix):
        return False
    return prefix[-1] in "/:@" or image[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@")


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _refusal(field: str, given: str, what: str, allowed: tuple[str, ...]) -> str:
    those = ", ".join(each for each in allowed if each) or "none"
    return f"{field}: {given!r} is not allowed here; the operator allows these {what}: {those}"


def _beyond_restricted(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # a Kubernetes PodSecurityContext
    """The fields of a pod's security context by which it is more than restricted, each with the reason."""
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot", "must not be false"
    if context.get("runAsUser") == 0:
        yield "runAsUser", "must not be 0"
    for field in ("seccompProfile", "appArmorProfile"):
        profile = context.get(field) or {}
        if profile and profile.get("type") not in _PROFILES:
            yield f"{field}.type", f"must be one of {', '.join(_PROFILES)}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX_TYPES:
        yield "seLinuxOptions.type", f"must be one of {', '.join(_SELINUX_TYPES[1:])}"
    for field in ("user", "role"):
        if selinux.get(field):
            yield f"seLinuxOptions.{field}", "must not be set"
    for number, sysctl in enumerate(context.get("sysctls") or ()):
        if sysctl.get("name") not in _SAFE_SYSCTLS:
            yield f"sysctls.{number}.name", f"{sysctl.get('name')!r} is not safe for other pods of the node"
