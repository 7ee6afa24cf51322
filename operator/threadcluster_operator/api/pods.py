"""Settings of the workers' pods, and of their monitoring."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, Annotations, Labels, ListMapKey, ObjectName, SpecModel
from threadcluster_operator.api.scheduling import AffinitySpec, Toleration, TopologySpreadConstraint
from threadcluster_operator.api.security_context import PodSecurityContext


class ImagePullSecret(SpecModel):
    """A Secret for the registry of the image."""

    name: Annotated[ObjectName, Field(description="The Secret's name.")]


ImagePullSecrets = Annotated[list[ImagePullSecret], Field(max_length=16), ListMapKey("name")]


class PodMetadata(SpecModel):
    """Labels and annotations that every pod gets, beside the operator's own, which win."""

    labels: Annotated[Labels, Field(description="For your own selectors.")] = Field(default_factory=dict)
    annotations: Annotated[Annotations, Field(description="For your own tools.")] = Field(default_factory=dict)


class PodSpec(SpecModel):
    """Where pods run and as whom; every field is as in Kubernetes' own PodSpec.

    The schema is closed: a field of Kubernetes that it does not have is refused.
    """

    node_selector: Annotated[Labels, Field(description="Labels that a node must have.")] = Field(default_factory=dict)
    affinity: Annotated[
        AffinitySpec | None, Field(description="Which nodes, and which pods nearby, are wanted or shunned.")
    ] = None
    tolerations: Annotated[
        list[Toleration],
        Field(max_length=32, description="Taints of nodes that pods bear.", json_schema_extra=ATOMIC),
    ] = Field(default_factory=list)
    topology_spread_constraints: Annotated[
        list[TopologySpreadConstraint],
        Field(
            max_length=16,
            description="How pods are spread; none: evenly over zones, where nodes have them.",
            json_schema_extra=ATOMIC,
        ),
    ] = Field(default_factory=list)
    priority_class_name: Annotated[ObjectName | None, Field(description="Which pods give way when nodes are full.")] = (
        None
    )
    service_account_name: Annotated[
        ObjectName | None,
        Field(description="As whom pods run, e.g. for the rights of a cloud; no token of it is mounted."),
    ] = None
    security_context: Annotated[
        PodSecurityContext | None,
        Field(description="For the whole pod; what it leaves out is as restricted namespaces ask for: not root."),
    ] = None


class PodTemplateSpec(SpecModel):
    """Additions to every worker's pod.  A change restarts the workers, one after another."""

    metadata: Annotated[PodMetadata, Field()] = PodMetadata()
    spec: Annotated[PodSpec, Field()] = PodSpec()


class MonitoringSpec(SpecModel):
    """Collection of the workers' metrics."""

    service_monitor: Annotated[
        Literal["Auto", "Enabled", "Disabled"],
        Field(
            description="Whether a ServiceMonitor is made for the Prometheus operator. Auto: where its resource exists."
            " Enabled: and it is an error where it does not."
        ),
    ] = "Auto"
