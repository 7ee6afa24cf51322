"""How many workers there are and how shards get to them: rebalancing, autoscaling, rollouts, draining."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import LOCAL, ListMapKey, SpecModel, ValidationRule

Mode = Literal["Auto", "Manual", "Paused"]
"""Which moves are made: see `RebalanceSpec.mode`."""
Strategy = Literal["Count", "Load"]
"""The measure that is spread evenly over the workers: see `RebalanceSpec.strategy`."""


class PinSpec(SpecModel):
    """A shard that belongs on one worker, whatever balance says."""

    shard: Annotated[int, Field(ge=0, le=4095, description="The shard's number.", json_schema_extra=LOCAL)]
    worker: Annotated[
        str,
        Field(min_length=1, max_length=63, description="The worker's name, e.g. demo-1.", json_schema_extra=LOCAL),
    ]


class RebalanceSpec(SpecModel):
    """When shards move between workers, and how many at a time."""

    mode: Annotated[
        Mode,
        Field(
            description="Auto: they are kept balanced. Manual: only what must move moves (pins, workers that leave); balance"
            " on command. Paused: nothing is moved at all.",
            json_schema_extra=LOCAL,
        ),
    ] = "Auto"
    strategy: Annotated[
        Strategy,
        Field(
            description="The measure that is spread evenly: the Count of shards, or their Load.",
            json_schema_extra=LOCAL,
        ),
    ] = "Count"
    max_concurrent_moves: Annotated[
        int, Field(ge=1, le=256, description="Shards on their way at the same time at most.", json_schema_extra=LOCAL)
    ] = 4
    imbalance_threshold_percent: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="How far a worker may be above its share before shards move for balance.",
            json_schema_extra=LOCAL,
        ),
    ] = 10
    pins: Annotated[
        list[PinSpec],
        Field(
            max_length=4096,
            description="Shards that stay on one worker while it lives. A shard is pinned once at most.",
            json_schema_extra=LOCAL,
        ),
        ListMapKey("shard"),
    ] = Field(default_factory=list)


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


class CanarySpec(SpecModel):
    """The first worker of a rollout, watched before the others follow.  Not yet acted on."""

    observe_seconds: Annotated[
        int, Field(ge=0, le=3600, description="For how long the first worker is watched; 0 watches none.")
    ] = 30
    max_error_percent: Annotated[
        int, Field(ge=0, le=100, description="Errors among its answers beyond which the rollout stops.")
    ] = 1


class RolloutSpec(SpecModel):
    """How a change of image or settings reaches the workers: one after another, the highest number first.

    Locally too the workers are restarted one after another, without the choices here.
    """

    paused: Annotated[bool, Field(description="Hold a rollout where it is; the rest of the cluster goes on.")] = False
    surge: Annotated[
        Literal[0, 1],
        Field(
            description="Workers more than replicas while a rollout lasts, so that none is missing. Not yet acted on."
        ),
    ] = 0
    min_ready_seconds: Annotated[
        int, Field(ge=0, le=3600, description="For how long a new worker must be ready before the next is changed.")
    ] = 5
    canary: Annotated[CanarySpec, Field()] = CanarySpec()


class DrainSpec(SpecModel):
    """How a worker leaves: the worker hands its shards over, then forwards until no client asks it any more.

    A pod's grace period is the sum of both, and 15 s more.
    """

    timeout_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=600,
            description="Within how long its shards are handed over; what is left then is taken over by the others.",
        ),
    ] = 30
    load_balancer_seconds: Annotated[
        int,
        Field(ge=0, le=600, description="How long load balancers in front may take to notice that it leaves."),
    ] = 15
