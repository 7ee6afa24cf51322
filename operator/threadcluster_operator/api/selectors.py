"""Selectors by labels, as Kubernetes has them: closed, and of fixed depth.

A schema that leaves Kubernetes' own objects open accepts what no Kubernetes does: a typing error, which the operator would
meet at the pod template, and an object nested so deep that a client cannot decode it.  The API server refuses both here.
"""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, LabelKey, Labels, LabelValue, SpecModel, ValidationRule


class LabelRequirement(SpecModel):
    """A label that must be there, or must not, or one of some values."""

    rules = (
        ValidationRule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "values are for In and NotIn, which need at least one",
            ("values",),
            lambda requirement: (requirement.operator in ("In", "NotIn")) == bool(requirement.values),
        ),
    )

    key: Annotated[LabelKey, Field(description="The label's name.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], Field(description="The relation of the label to the values.")
    ]
    values: Annotated[
        list[LabelValue] | None, Field(max_length=64, description="For In and NotIn.", json_schema_extra=ATOMIC)
    ] = None


class LabelSelector(SpecModel):
    """Objects by their labels: all conditions hold of them; {} is all objects."""

    match_labels: Annotated[Labels | None, Field(description="Labels with their values.")] = None
    match_expressions: Annotated[
        list[LabelRequirement] | None,
        Field(max_length=32, description="Further conditions.", json_schema_extra=ATOMIC),
    ] = None
