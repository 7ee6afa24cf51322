"""How many workers there are, by their load."""

from typing import Annotated

from pydantic import Field

from threadcluster_operator.api.fields import SpecModel, ValidationRule


class ScaleUpSpec(SpecModel):
    """How eagerly autoscaling adds workers."""

    stabilization_window_seconds: Annotated[
        int, Field(ge=0, le=3600, description="For how long the wish must last before workers are added.")
    ] = 0


class ScaleDownSpec(SpecModel):
    """How eagerly autoscaling takes workers away."""

    stabilization_window_seconds: Annotated[
        int, Field(ge=0, le=3600, description="For how long the wish must last before workers are taken away.")
    ] = 300


class AutoscalingSpec(SpecModel):
    """How many workers there are, by what they have to do.

    spec.replicas is then only what the cluster starts with.  Accepted and checked already, but not yet acted on: the
    condition AutoscalingActive says Disabled.
    """

    rules = (
        ValidationRule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be more than maxReplicas",
            ("minReplicas",),
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
        ),
        ValidationRule(
            "has(self.targetCommandsPerSecond) || has(self.targetCPUUtilizationPercent)",
            "at least one of targetCommandsPerSecond and targetCPUUtilizationPercent is wanted",
            (),
            lambda scaling: (scaling.target_commands_per_second, scaling.target_cpu) != (None, None),
        ),
    )

    min_replicas: Annotated[int, Field(ge=1, le=256, description="Workers at least.")]
    max_replicas: Annotated[int, Field(ge=1, le=256, description="Workers at most; not more than shards.")]
    target_commands_per_second: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Commands a second that each worker should have to do.")
    ] = None
    target_cpu: Annotated[
        int | None,
        Field(
            alias="targetCPUUtilizationPercent",
            ge=1,
            le=100,
            description="How much of the processor that it requests each worker should use. It needs"
            " worker.resources.requests.cpu.",
        ),
    ] = None
    scale_up: Annotated[ScaleUpSpec, Field()] = ScaleUpSpec()
    scale_down: Annotated[ScaleDownSpec, Field()] = ScaleDownSpec()
