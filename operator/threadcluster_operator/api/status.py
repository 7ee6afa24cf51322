"""The shape of a ThreadCluster's `status`; `threadcluster_operator.controller.status` computes the values."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, ListMapKey, SpecModel

Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z]([A-Za-z0-9]*)$")]


class ShardsStatus(SpecModel):
    """Where the shards are."""

    total: Annotated[Count, Field(description="How many there are.")] = 0
    assigned: Annotated[Count, Field(description="How many a live worker owns.")] = 0
    moving: Annotated[Count, Field(description="How many are on their way to another worker.")] = 0
    imbalance_percent: Annotated[
        Count,
        Field(
            description="How far the fullest worker is above its share; 0 where no move would lower it. By load: as of the"
            " last other change of the status; `threadcluster plan` shows the present figure."
        ),
    ] = 0


class PlanStatus(SpecModel):
    """Where the shards are going."""

    hash: Annotated[str, Field(max_length=64, description="Which plan; the workers know it under the same.")] = ""
    pending_moves: Annotated[Count, Field(description="Moves that are still to be made for it.")] = 0


class WorkerStatus(SpecModel):
    """One worker."""

    name: Annotated[str, Field(min_length=1, max_length=63, description="Its name, which is its pod's.")]
    state: Annotated[Word | None, Field(description="How it is.")] = None
    revision: Annotated[str | None, Field(max_length=63, description="Which version of the pod template it runs.")] = (
        None
    )
    shards: Annotated[str, Field(max_length=16_384, description="The shards that it owns, as ranges: 0-3,7.")] = ""
    cordoned: Annotated[bool, Field(description="Whether it gets no more shards.")] = False


class SecretValueStatus(SpecModel):
    """One value of the cluster's secret, by what it is made of."""

    generation: Annotated[int, Field(ge=1, description="The spec.secretGeneration that it was made for.")]
    operator_key: Annotated[str, Field(max_length=16, description="The fingerprint of the operator's key.")]


class SecretStatus(SpecModel):
    """The Secrets <name>-internal and <name>.client-internal, and how far a rotation is."""

    values: Annotated[
        list[SecretValueStatus],
        Field(
            min_length=1,
            max_length=2,
            description="The values that the Secrets hold; the first signs. Two while one replaces the other.",
            json_schema_extra=ATOMIC,
        ),
    ]
    made: Annotated[bool, Field(description="Whether the Secrets were made with these values.")] = False


class Condition(SpecModel):
    """One thing that is so, is not so, or is not known."""

    type: Annotated[Word, Field(description="The aspect that the condition is about, e.g. Ready.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="Whether it is so.")]
    reason: Annotated[Word, Field(description="Why, in one word of a closed list.")]
    message: Annotated[str, Field(max_length=32_768, description="Why, and what to do, for people; never empty.")] = ""
    last_transition_time: Annotated[
        str,
        Field(max_length=32, description="When status last changed.", json_schema_extra={"format": "date-time"}),
    ]
    observed_generation: Annotated[
        Count | None, Field(description="The metadata.generation that the condition is about.")
    ] = None


class ThreadClusterStatus(SpecModel):
    """The observed state of the cluster, and of which generation of its spec.  The operator's; edits are overwritten."""

    observed_generation: Annotated[
        Count | None, Field(description="The metadata.generation that the whole status is about.")
    ] = None
    desired_replicas: Annotated[
        Count | None,
        Field(description="Workers that there should be now: spec.replicas, or what autoscaling made of it."),
    ] = None
    replicas: Annotated[Count | None, Field(description="Pods of workers that there are.")] = None
    ready_replicas: Annotated[Count | None, Field(description="Workers that are ready.")] = None
    ready_workers: Annotated[
        str | None, Field(max_length=16, description="Workers that are ready, of those that are wanted: 1/2.")
    ] = None
    updated_replicas: Annotated[Count | None, Field(description="Workers that run the newest version.")] = None
    selector: Annotated[
        str | None, Field(max_length=512, description="The labels of the pods, for a HorizontalPodAutoscaler.")
    ] = None
    image: Annotated[str | None, Field(max_length=512, description="The image of the newest version.")] = None
    endpoint: Annotated[
        str | None, Field(max_length=1024, description="Where clients reach the HTTP API, as a URL.")
    ] = None
    operator: Annotated[
        str | None,
        Field(
            max_length=63,
            description="The namespace of the operator that looks after the cluster; one in another namespace changes nothing.",
        ),
    ] = None
    operator_challenge: Annotated[
        str | None,
        Field(
            max_length=63,
            description="The namespace of another operator, which asks whether the first one lives; it takes over after a minute"
            " without an answer.",
        ),
    ] = None
    shards: Annotated[ShardsStatus | None, Field()] = None
    plan: Annotated[PlanStatus | None, Field()] = None
    workers: Annotated[
        list[WorkerStatus],
        Field(max_length=256, description="The workers, in order."),
        ListMapKey("name"),
    ] = Field(default_factory=list)
    secret: Annotated[SecretStatus | None, Field()] = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16, description="Ready, Available, Progressing, Stalled, Draining, AutoscalingActive and Paused."
        ),
        ListMapKey("type"),
    ] = Field(default_factory=list)
