"""How the cluster is reached, and by whom."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, LOCAL, Annotations, ObjectName, SpecModel, ValidationRule
from threadcluster_operator.api.selectors import LabelSelector


class ServiceSpec(SpecModel):
    """The Service in front of the workers; any worker serves any thread."""

    rules = (
        ValidationRule(
            "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
            "loadBalancerClass is for type LoadBalancer alone",
            ("loadBalancerClass",),
            lambda service: service.load_balancer_class is None or service.type == "LoadBalancer",
        ),
    )

    type: Annotated[
        Literal["ClusterIP", "NodePort", "LoadBalancer"],
        Field(
            description="Clients that reach the Service: those in the Kubernetes cluster, those that reach a node, or those outside."
        ),
    ] = "ClusterIP"
    port: Annotated[
        int,
        Field(
            ge=1,
            le=65_535,
            description="The port of the HTTP API. Locally: that of this machine, 8080 when it is left out.",
            json_schema_extra=LOCAL,
        ),
    ] = 80
    annotations: Annotated[Annotations, Field(description="Read by the provider of the load balancer.")] = Field(
        default_factory=dict
    )
    load_balancer_class: Annotated[
        str | None,
        Field(min_length=1, max_length=253, description="Which load balancer, e.g. service.k8s.aws/nlb."),
    ] = None


class IngressSpec(SpecModel):
    """An Ingress to the Service."""

    class_name: Annotated[
        ObjectName | None, Field(description="Which controller serves it; left out: the Kubernetes cluster's default.")
    ] = None
    host: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            description="The host name it answers to; left out: any.",
        ),
    ] = None
    tls_secret_name: Annotated[
        ObjectName | None, Field(description="The Secret with its certificate; left out: HTTP in the clear.")
    ] = None
    annotations: Annotated[Annotations, Field(description="For the controller that serves it.")] = Field(
        default_factory=dict
    )


class GatewaySpec(SpecModel):
    """The public side: where clients reach the HTTP API."""

    service: Annotated[ServiceSpec, Field(json_schema_extra=LOCAL)] = ServiceSpec()
    ingress: Annotated[IngressSpec | None, Field()] = None


class IPBlock(SpecModel):
    """A range of addresses."""

    cidr: Annotated[str, Field(min_length=1, max_length=64, description="E.g. 10.1.0.0/16 or fd00:1::/64.")]
    except_: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]],
        Field(alias="except", max_length=64, description="Ranges in it that are left out.", json_schema_extra=ATOMIC),
    ] = Field(default_factory=list)


class NetworkPeer(SpecModel):
    """Pods, by their labels and their namespaces', or a range of addresses; as in Kubernetes' own NetworkPolicy."""

    rules = (
        ValidationRule(
            "has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            "either ipBlock or selectors are wanted, not both and not neither",
            (),
            lambda peer: (
                (peer.ip_block is not None) != (peer.pod_selector is not None or peer.namespace_selector is not None)
            ),
        ),
    )

    pod_selector: Annotated[LabelSelector | None, Field(description="Pods by their labels; {} is all.")] = None
    namespace_selector: Annotated[
        LabelSelector | None, Field(description="Namespaces by their labels; {} is all. Left out: the cluster's own.")
    ] = None
    ip_block: Annotated[IPBlock | None, Field()] = None


class NetworkPolicySpec(SpecModel):
    """Network traffic that the workers accept and send.  The Kubernetes network must enforce policies."""

    rules = (
        ValidationRule(
            "!has(self.mode) || self.mode != 'Full' || (has(self.egressTo) && self.egressTo.size() > 0)",
            "mode Full closes the way to the database as well: name where it is",
            ("egressTo",),
            lambda policy: policy.mode != "Full" or bool(policy.egress_to),
        ),
    )

    mode: Annotated[
        Literal["Off", "Ingress", "Full"],
        Field(
            description="Off: no policy. Ingress: the API is open to allowFrom, the workers' inner port to each other, the"
            " operator and monitoringFrom. Full: besides, workers reach only each other, name servers, and egressTo."
        ),
    ] = "Ingress"
    allow_from: Annotated[
        list[NetworkPeer],
        Field(
            max_length=32,
            description="Clients that may use the API; none: the pods of the cluster's own namespace.",
            json_schema_extra=ATOMIC,
        ),
    ] = Field(default_factory=list)
    monitoring_from: Annotated[
        list[NetworkPeer],
        Field(
            max_length=32,
            description="Peers that may read the workers' metrics, at the inner port: your Prometheus. None: no peer.",
            json_schema_extra=ATOMIC,
        ),
    ] = Field(default_factory=list)
    egress_to: Annotated[
        list[NetworkPeer],
        Field(
            max_length=32,
            description="Whom the workers may reach, on every port, with mode Full: the database at least.",
            json_schema_extra=ATOMIC,
        ),
    ] = Field(default_factory=list)
