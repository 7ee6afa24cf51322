"""The base model, the validation rules and the value types that every part of the resource shares.

Names, bounds, defaults, texts and rules are written once, on the model, for every platform; `threadcluster_operator.api.crd` makes the schema of
the Kubernetes API from them, and `docs/threadcluster.md` is generated from that.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

LOCAL_MARK: Final = "x-local"
LOCAL: Final[JsonDict] = {LOCAL_MARK: True}
"""Marks a field that the local platform acts on as well; every other field is for Kubernetes alone."""

ATOMIC: Final[JsonDict] = {"x-kubernetes-list-type": "atomic"}
"""A list that is set as a whole."""


@dataclass(frozen=True)
class ListMapKey:
    """Marks a list whose items are identified by one of their fields, so that several writers can each own some items."""

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # any type at all
        """The list, without two items of one key; pydantic asks for this."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The list, as one that has a key; pydantic asks for this."""
        return handler(schema) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}

    def _check(self, items: list[BaseModel]) -> list[BaseModel]:
        first: dict[object, int] = {}
        wrong = [
            refusal((position, self.key), f"item {first[key]} has this {self.key} already", key)
            for position, key in enumerate(getattr(item, self.key) for item in items)
            if first.setdefault(key, position) != position
        ]
        if wrong:
            raise ValidationError.from_exception_data("list", wrong)
        return items


class ValidationRule(NamedTuple):
    """A rule that no single field can state, for both who checks it.

    ``cel`` is what the Kubernetes API server evaluates, ``holds`` is the same for the local platform and the operator;
    None where a validator of the part's own says it with more detail.  Defaults are in place when either is asked.
    """

    cel: str
    message: str
    field: tuple[str, ...] = ()
    """The field to blame, as the user writes it; the part itself when empty."""
    holds: Callable[[Any], bool] | None = None  # each rule knows the part it belongs to, and Python cannot say so
    missing: bool = False
    """Whether it is broken by a field's absence, which Kubernetes' clients show apart from a wrong value."""


class SpecModel(BaseModel):
    """A part of the resource.  It refuses unknown fields, unless who reads it says otherwise (`parse_spec`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True)

    rules: ClassVar[tuple[ValidationRule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        wrong = [
            refusal(rule.field, rule.message) for rule in self.rules if rule.holds is not None and not rule.holds(self)
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The part's rules beside its fields; pydantic asks for this."""
        found = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(found)["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message}
                | ({"fieldPath": "".join(f".{name}" for name in rule.field)} if rule.field else {})
                | ({"reason": "FieldValueRequired"} if rule.missing else {})
                for rule in cls.rules
            ]
        return found


def without_local_effect(part: SpecModel, path: str) -> list[str]:
    """The fields given in a part, itself at ``path``, that the local platform checks and then leaves alone."""
    found: list[str] = []
    for name in type(part).model_fields.keys() & part.model_fields_set:
        field, value = type(part).model_fields[name], getattr(part, name)
        here = f"{path}.{field.alias}"
        if not (isinstance(field.json_schema_extra, dict) and LOCAL_MARK in field.json_schema_extra):
            found.append(here)
        elif isinstance(value, SpecModel):
            found += without_local_effect(value, here)
    return sorted(found)


def refusal(where: tuple[str | int, ...], reason: str, given: object = None) -> InitErrorDetails:
    """A failure at a field of the part that raises it."""
    error = PydanticCustomError("rule", "{reason}", {"reason": reason})
    return InitErrorDetails(type=error, loc=where, input=given)


def _check_quantity(given: object) -> object:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, str) and len(given) <= _QUANTITY_LENGTH and re.fullmatch(_QUANTITY, given):
        return given
    raise PydanticCustomError("quantity", "a quantity is wanted, as Kubernetes writes them: 500m, 2Gi, 4")


_QUANTITY_LENGTH: Final = 32
_QUANTITY: Final = (
    r"^\+?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

Quantity = Annotated[
    int | str,
    BeforeValidator(_check_quantity),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY, "maxLength": _QUANTITY_LENGTH, "minimum": 0}
    ),
]
"""An amount of processor or memory; Kubernetes' own notation, without a sign."""

NAME_LENGTH: Final = 40
"""Maximum length of a name: the suffixes of pods, Services and Jobs fit into the 63 characters of a label as well."""
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

ClusterName = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=NAME_PATTERN)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[LabelKey, Annotated[str, Field(max_length=16_384)]], Field(max_length=64)]
