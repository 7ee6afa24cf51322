"""Where pods run, as Kubernetes' own PodSpec has it, closed: affinity, tolerations, and how pods are spread."""

from typing import Annotated, Final, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, LabelKey, LabelValue, SpecModel, ValidationRule
from threadcluster_operator.api.selectors import LabelSelector

_TERMS: Final = 32
"""Maximum number of terms in a list: each is evaluated for every node at every scheduling of a pod."""

Weight = Annotated[int, Field(ge=1, le=100, description="How much the preference counts beside others.")]
TopologyKey = Annotated[
    LabelKey, Field(description="The nodes' label whose values divide them, e.g. topology.kubernetes.io/zone.")
]
LabelKeys = Annotated[list[LabelKey], Field(max_length=16)]


class NodeRequirement(SpecModel):
    """A label or field of a node that must be there, or must not, or one of some values, or above or below one."""

    rules = (
        ValidationRule(
            "(self.operator in ['Exists', 'DoesNotExist']) != (has(self.values) && self.values.size() > 0)",
            "values are for In, NotIn, Gt and Lt, which need at least one",
            ("values",),
            lambda requirement: (requirement.operator in ("Exists", "DoesNotExist")) != bool(requirement.values),
        ),
    )

    key: Annotated[LabelKey, Field(description="The name of the label or field.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
        Field(description="The relation of the label to the values."),
    ]
    values: Annotated[
        list[LabelValue] | None,
        Field(max_length=64, description="For In and NotIn; one number for Gt and Lt.", json_schema_extra=ATOMIC),
    ] = None


class NodeSelectorTerm(SpecModel):
    """Nodes of which all conditions hold."""

    match_expressions: Annotated[
        list[NodeRequirement] | None,
        Field(max_length=_TERMS, description="Conditions on labels.", json_schema_extra=ATOMIC),
    ] = None
    match_fields: Annotated[
        list[NodeRequirement] | None,
        Field(max_length=_TERMS, description="Conditions on fields: metadata.name.", json_schema_extra=ATOMIC),
    ] = None


class NodeSelector(SpecModel):
    """Nodes of which at least one term holds."""

    node_selector_terms: Annotated[
        list[NodeSelectorTerm],
        Field(min_length=1, max_length=_TERMS, description="The terms.", json_schema_extra=ATOMIC),
    ]


class PreferredNodes(SpecModel):
    """Nodes that are preferred."""

    weight: Weight
    preference: Annotated[NodeSelectorTerm, Field(description="Which nodes.")]


class NodeAffinity(SpecModel):
    """Nodes that pods need or prefer."""

    required_during_scheduling_ignored_during_execution: Annotated[
        NodeSelector | None, Field(description="A pod runs on no other node.")
    ] = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredNodes] | None,
        Field(max_length=_TERMS, description="A pod runs there rather than elsewhere.", json_schema_extra=ATOMIC),
    ] = None


class PodAffinityTerm(SpecModel):
    """Pods, and the nodes that count as their place."""

    label_selector: Annotated[LabelSelector | None, Field(description="Pods by their labels.")] = None
    namespaces: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=63)]] | None,
        Field(max_length=_TERMS, description="Their namespaces; none: the cluster's own.", json_schema_extra=ATOMIC),
    ] = None
    namespace_selector: Annotated[LabelSelector | None, Field(description="Their namespaces by label; {} is all.")] = (
        None
    )
    topology_key: TopologyKey
    match_label_keys: Annotated[
        LabelKeys | None,
        Field(description="Labels in which they are as the pod itself.", json_schema_extra=ATOMIC),
    ] = None
    mismatch_label_keys: Annotated[
        LabelKeys | None,
        Field(description="Labels in which they differ from the pod itself.", json_schema_extra=ATOMIC),
    ] = None


class PreferredPods(SpecModel):
    """Pods whose place is preferred, or avoided."""

    weight: Weight
    pod_affinity_term: Annotated[PodAffinityTerm, Field(description="Which pods.")]


class PodAffinity(SpecModel):
    """Pods whose place is needed or preferred; in podAntiAffinity, avoided."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm] | None,
        Field(max_length=_TERMS, description="Without exception.", json_schema_extra=ATOMIC),
    ] = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredPods] | None,
        Field(max_length=_TERMS, description="Where it can be.", json_schema_extra=ATOMIC),
    ] = None


class AffinitySpec(SpecModel):
    """Nodes, and pods nearby, that are wanted or avoided."""

    node_affinity: Annotated[NodeAffinity | None, Field()] = None
    pod_affinity: Annotated[PodAffinity | None, Field(description="Pods beside which to run.")] = None
    pod_anti_affinity: Annotated[PodAffinity | None, Field(description="Pods beside which not to run.")] = None


class Toleration(SpecModel):
    """A taint of nodes on which pods run all the same."""

    rules = (
        ValidationRule(
            "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
            "without a key, which is every taint, operator must be Exists",
            ("operator",),
            lambda toleration: bool(toleration.key) or toleration.operator == "Exists",
        ),
        ValidationRule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "operator Exists has no value",
            ("value",),
            lambda toleration: toleration.operator != "Exists" or not toleration.value,
        ),
        ValidationRule(
            "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
            "tolerationSeconds is for effect NoExecute alone",
            ("tolerationSeconds",),
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )

    key: Annotated[str | None, Field(max_length=317, description="The taint's name; left out: every taint.")] = None
    operator: Annotated[
        Literal["Exists", "Equal"] | None, Field(description="Whether the value counts; left out: Equal.")
    ] = None
    value: Annotated[LabelValue | None, Field(description="The taint's value, for Equal.")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="The taint's effect; left out: every effect."),
    ] = None
    toleration_seconds: Annotated[
        int | None,
        Field(ge=-1, le=2**31 - 1, description="For how long, with NoExecute; left out: without end."),
    ] = None


class TopologySpreadConstraint(SpecModel):
    """How evenly pods are spread over parts of the Kubernetes cluster."""

    rules = (
        ValidationRule(
            "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            "minDomains is for whenUnsatisfiable DoNotSchedule alone",
            ("minDomains",),
            lambda constraint: constraint.min_domains is None or constraint.when_unsatisfiable == "DoNotSchedule",
        ),
    )

    max_skew: Annotated[
        int, Field(ge=1, le=2**31 - 1, description="How many pods more one part may have than another.")
    ]
    topology_key: TopologyKey
    when_unsatisfiable: Annotated[
        Literal["DoNotSchedule", "ScheduleAnyway"],
        Field(description="Whether a pod that would break it waits, or runs all the same."),
    ]
    label_selector: Annotated[LabelSelector | None, Field(description="The pods that are counted.")] = None
    min_domains: Annotated[
        int | None, Field(ge=1, le=2**31 - 1, description="The least number of parts to count with.")
    ] = None
    node_affinity_policy: Annotated[
        Literal["Honor", "Ignore"] | None, Field(description="Whether only nodes that the pod's affinity allows count.")
    ] = None
    node_taints_policy: Annotated[
        Literal["Honor", "Ignore"] | None, Field(description="Whether only nodes whose taints the pod tolerates count.")
    ] = None
    match_label_keys: Annotated[
        LabelKeys | None,
        Field(description="Only pods count that are in these labels as the pod itself.", json_schema_extra=ATOMIC),
    ] = None
