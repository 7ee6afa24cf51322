"""How workers are replaced, one after another, and how a worker leaves."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import SpecModel


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
