"""The ThreadCluster resource, whole: what one is called and what is wanted of it."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from threadcluster_operator.api.autoscaling import AutoscalingSpec
from threadcluster_operator.api.database import DatabaseSpec
from threadcluster_operator.api.fields import (
    LOCAL,
    Annotations,
    ClusterName,
    Labels,
    SpecModel,
    ValidationRule,
    refusal,
)
from threadcluster_operator.api.network import GatewaySpec, NetworkPolicySpec
from threadcluster_operator.api.pods import ImagePullSecrets, MonitoringSpec, PodTemplateSpec
from threadcluster_operator.api.rebalance import RebalanceSpec
from threadcluster_operator.api.rollout import DrainSpec, RolloutSpec
from threadcluster_operator.api.worker import WorkerSpec

API_VERSION: Final = "threadcluster.io/v1alpha1"
KIND: Final = "ThreadCluster"

Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")]


class ThreadClusterSpec(SpecModel):
    """The desired state of the cluster."""

    rules = (
        ValidationRule("has(self.image)", "only the local platform brings its own", ("image",), missing=True),
        ValidationRule("has(self.database)", "only the local platform brings its own", ("database",), missing=True),
        ValidationRule(
            "self.replicas <= self.shards",
            "must not be more than shards: a worker without a shard has nothing to do",
            ("replicas",),
            lambda spec: spec.replicas <= spec.shards,
        ),
        ValidationRule(
            "!has(self.autoscaling) || self.autoscaling.maxReplicas <= self.shards",
            "must not be more than shards: a worker without a shard has nothing to do",
            ("autoscaling", "maxReplicas"),
            lambda spec: spec.autoscaling is None or spec.autoscaling.max_replicas <= spec.shards,
        ),
        ValidationRule(
            "!has(self.rebalance.pins) || self.rebalance.pins.all(pin, pin.shard < self.shards)",
            "a pinned shard does not exist: they are numbered from 0 to one less than shards",
            ("rebalance", "pins"),
        ),
    )

    shards: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="The number of parts into which the threads are divided; also the maximum number of workers that share"
            " the work. It can never be changed once the database is made.",
            json_schema_extra={
                **LOCAL,
                "x-kubernetes-validations": [
                    {
                        "rule": "self == oldSelf",
                        "message": "can never be changed: it decides to which shard each thread belongs",
                    }
                ],
            },
        ),
    ] = 144
    replicas: Annotated[
        int,
        Field(
            ge=0,
            le=256,
            description="Workers. 0 stops the cluster and keeps its data. With autoscaling: only what it starts with.",
            json_schema_extra=LOCAL,
        ),
    ] = 3
    image: Annotated[
        Image | None,
        Field(description="The workers' image. Required on Kubernetes; locally the installed program is used."),
    ] = None
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None,
        Field(description="When a node pulls the image; left out: Kubernetes' own rule."),
    ] = None
    image_pull_secrets: Annotated[ImagePullSecrets, Field(description="For the registry of the image.")] = Field(
        default_factory=list
    )
    paused: Annotated[
        bool,
        Field(description="The operator changes nothing of this cluster while this is true. The chat goes on."),
    ] = False
    database: Annotated[
        DatabaseSpec | None,
        Field(
            description="Which Postgres carries the journal. It outlives the cluster: nothing here ever deletes data. Required"
            " on Kubernetes; locally one is brought along when this is left out.",
            json_schema_extra=LOCAL,
        ),
    ] = None
    secret_generation: Annotated[
        int,
        Field(
            ge=1,
            le=2**31 - 1,
            description="Which value of the cluster's secret is wanted: the next number has the operator replace it, in three"
            " steps and without a restart. status.secret says how far that is.",
            json_schema_extra={
                "x-kubernetes-validations": [
                    {"rule": "self >= oldSelf", "message": "a value of the secret that was replaced does not come back"}
                ],
            },
        ),
    ] = 1
    worker: Annotated[WorkerSpec, Field(json_schema_extra=LOCAL)] = WorkerSpec()
    rebalance: Annotated[RebalanceSpec, Field(json_schema_extra=LOCAL)] = RebalanceSpec()
    autoscaling: Annotated[AutoscalingSpec | None, Field()] = None
    rollout: Annotated[RolloutSpec, Field()] = RolloutSpec()
    drain: Annotated[DrainSpec, Field()] = DrainSpec()
    gateway: Annotated[GatewaySpec, Field(json_schema_extra=LOCAL)] = GatewaySpec()
    network_policy: Annotated[NetworkPolicySpec, Field()] = NetworkPolicySpec()
    pod_template: Annotated[PodTemplateSpec, Field()] = PodTemplateSpec()
    monitoring: Annotated[MonitoringSpec, Field()] = MonitoringSpec()

    @model_validator(mode="after")
    def _check_pins(self) -> Self:
        wrong = [
            refusal(
                ("rebalance", "pins", position, "shard"), f"the cluster has shards 0 to {self.shards - 1}", pin.shard
            )
            for position, pin in enumerate(self.rebalance.pins)
            if pin.shard >= self.shards
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self


class KubernetesSpec(ThreadClusterSpec):
    """A spec that brings what Kubernetes does not have by itself; the operator's."""

    image: Image
    database: DatabaseSpec


class Metadata(SpecModel):
    """Which cluster this is."""

    name: ClusterName
    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)


class ThreadCluster(SpecModel):
    """One cluster."""

    api_version: Literal["threadcluster.io/v1alpha1"]
    kind: Literal["ThreadCluster"]
    metadata: Metadata
    spec: ThreadClusterSpec = ThreadClusterSpec()

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.metadata.name
