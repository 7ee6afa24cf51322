"""When and how shards move between workers."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import LOCAL, ListMapKey, SpecModel

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
