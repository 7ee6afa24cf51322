"""How each worker runs: its share of the machine, its environment, what it keeps in memory."""

from typing import Annotated, Final

from pydantic import Field

from shard_worker.contract_internal import ENVIRONMENT_PREFIX
from threadcluster_operator.api.fields import (
    LOCAL,
    DataKey,
    ListMapKey,
    ObjectName,
    Quantity,
    SpecModel,
    ValidationRule,
)


class ResourcesSpec(SpecModel):
    """The processor and memory of each worker, as Kubernetes' own pods have them."""

    requests: Annotated[
        dict[Annotated[str, Field(max_length=253)], Quantity],
        Field(
            max_length=16,
            description="The free resources that a node must have for a worker, e.g. cpu: 500m, memory: 512Mi.",
        ),
    ] = Field(default_factory=dict)
    limits: Annotated[
        dict[Annotated[str, Field(max_length=253)], Quantity],
        Field(max_length=16, description="The most that a worker gets. A limit on cpu makes a busy worker pause."),
    ] = Field(default_factory=dict)


class DataKeySelector(SpecModel):
    """A key of a Secret or a ConfigMap in the cluster's namespace."""

    name: Annotated[ObjectName, Field(description="The object's name.")]
    key: Annotated[DataKey, Field(description="The key in it.")]
    optional: Annotated[bool, Field(description="Whether a worker starts without it.")] = False


class FieldSelector(SpecModel):
    """A field of the worker's own pod."""

    field_path: Annotated[str, Field(min_length=1, max_length=253, description="E.g. status.podIP.")]


_SOURCES: Final = ("secretKeyRef", "configMapKeyRef", "fieldRef")


class EnvSource(SpecModel):
    """Where a variable's value comes from."""

    rules = (
        ValidationRule(
            f"[{', '.join(f'has(self.{source})' for source in _SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(_SOURCES)} is wanted",
            (),
            lambda source: [source.secret_key_ref, source.config_map_key_ref, source.field_ref].count(None) == 2,
        ),
    )

    secret_key_ref: Annotated[DataKeySelector | None, Field(description="A key of a Secret.")] = None
    config_map_key_ref: Annotated[DataKeySelector | None, Field(description="A key of a ConfigMap.")] = None
    field_ref: Annotated[FieldSelector | None, Field()] = None


class EnvVar(SpecModel):
    """A variable in the environment of every worker."""

    rules = (
        ValidationRule(
            f"!self.name.startsWith('{ENVIRONMENT_PREFIX}')",
            f"names that begin with {ENVIRONMENT_PREFIX} are the operator's own: their values come from the rest of the resource",
            ("name",),
            lambda variable: not variable.name.startswith(ENVIRONMENT_PREFIX),
        ),
        ValidationRule(
            "has(self.value) != has(self.valueFrom)",
            "exactly one of value and valueFrom is wanted",
            (),
            lambda variable: (variable.value is None) != (variable.value_from is None),
        ),
    )

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            description=f"The variable's name; not {ENVIRONMENT_PREFIX}…, which the operator sets itself.",
        ),
    ]
    value: Annotated[str | None, Field(max_length=8192, description="Its value.")] = None
    value_from: Annotated[EnvSource | None, Field()] = None


class PassivationSpec(SpecModel):
    """When a thread leaves a worker's memory.  Its next request loads it again."""

    idle_seconds: Annotated[
        int,
        Field(ge=1, le=86_400, description="After how long without a request.", json_schema_extra=LOCAL),
    ] = 120
    max_resident_threads: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="Threads in a worker's memory at most; beyond it the least recently asked leaves.",
            json_schema_extra=LOCAL,
        ),
    ] = 20_000


class WorkerSpec(SpecModel):
    """How each worker runs.  A change restarts the workers, one after another."""

    resources: Annotated[ResourcesSpec, Field()] = ResourcesSpec()
    env: Annotated[
        list[EnvVar],
        Field(max_length=64, description="Variables for the environment of every worker."),
        ListMapKey("name"),
    ] = Field(default_factory=list)
    passivation: Annotated[PassivationSpec, Field(json_schema_extra=LOCAL)] = PassivationSpec()
    write_format: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="The journal format that events are written in. Unset: the newest that the release before the"
            " workers' reads, so that they can be rolled back.",
            json_schema_extra=LOCAL,
        ),
    ] = None
    snapshot_every_events: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Events of a thread between two snapshots. Fewer make loading a thread quicker and writing more expensive.",
            json_schema_extra=LOCAL,
        ),
    ] = 100
