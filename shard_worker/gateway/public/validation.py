"""Validation: a JSON value against its body, and every failure as a sentence a client's author can act on.

Only when pydantic refuses a value are sentences made; each begins with the field's path in the names of the JSON, such
as ``messages[0].text``.  A value the client sent is never repeated.  Messages are validated one at a time, so that the
loop turns between two texts, and no further than to `REFUSED_MESSAGES` failures.

`faultless` is a short cut for most bodies: pydantic reads the bytes itself, 2 µs sooner.  It may refuse what `validate`
accepts, never the other way round.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shard_worker.gateway.http.failures import ULID_FORM, Failure, FailureCode, Location, of_field
from shard_worker.gateway.http.problems import REFUSED_MESSAGES
from shard_worker.gateway.http.turn_budget import Piece
from shard_worker.gateway.public.request_models import MESSAGES_A_COMMAND, AddMessagesBody, NewMessageBody, PostedBody

Body = TypeVar("Body", bound=PostedBody)
Model = TypeVar("Model", bound=BaseModel)

_Context = dict[str, Any]  # Any: pydantic's, of the failure's own parameters

_SENTENCES: Final[dict[str, tuple[FailureCode, Callable[[_Context], str]]]] = {
    "missing": (FailureCode.REQUIRED, lambda _: "is required"),
    "extra_forbidden": (FailureCode.UNKNOWN, lambda _: "is not a field of this request"),
    "string_type": (FailureCode.WRONG_TYPE, lambda _: "must be a string"),
    "string_unicode": (FailureCode.FORBIDDEN_CHARACTERS, lambda _: "must not contain lone surrogates"),
    "string_pattern_mismatch": (FailureCode.WRONG_FORMAT, lambda _: ULID_FORM),
    "int_type": (FailureCode.WRONG_TYPE, lambda _: "must be an integer without fraction or exponent"),
    "int_parsing_size": (FailureCode.OUT_OF_RANGE, lambda _: "is out of range"),
    "list_type": (FailureCode.WRONG_TYPE, lambda _: "must be an array"),
    "model_type": (FailureCode.WRONG_TYPE, lambda _: "must be an object"),
    "model_attributes_type": (FailureCode.WRONG_TYPE, lambda _: "must be an object"),
    "greater_than_equal": (FailureCode.OUT_OF_RANGE, lambda context: f"must be at least {context['ge']}"),
    "less_than_equal": (FailureCode.OUT_OF_RANGE, lambda context: f"must be at most {context['le']}"),
    "too_short": (FailureCode.WRONG_LENGTH, lambda context: f"must have at least {context['min_length']} element(s)"),
    "too_long": (FailureCode.WRONG_LENGTH, lambda context: f"must have at most {context['max_length']} elements"),
    "invalid_key": (FailureCode.UNKNOWN, lambda _: "is not a field of this request"),
}
_OWN_CODES: Final = {
    "text_length": FailureCode.WRONG_LENGTH,
    "text_surrogate": FailureCode.FORBIDDEN_CHARACTERS,
    "text_combining": FailureCode.FORBIDDEN_CHARACTERS,
    "text_nul": FailureCode.FORBIDDEN_CHARACTERS,
    "thread_id_reserved": FailureCode.RESERVED,
}
"""Codes of the errors that our own validators raise, each with its sentence."""


_Failure = tuple[Location, Failure]

_VALID_MESSAGE: Final = NewMessageBody(text="-")
"""Takes the place of a message that is not valid, so that the rest of its body can be validated."""


def _validated(model: type[Model], value: object, at: Location = ()) -> tuple[Model | None, list[_Failure]]:
    """The model that a value is, or its failures, each with its place under ``at``."""
    try:
        return model.__pydantic_validator__.validate_python(value), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    if isinstance(value, dict) and any(failure["type"] == "string_unicode" for failure in found):
        # Pydantic stops at a name with a lone surrogate; with such names made printable it finds the rest as well.
        printable = {name.encode("utf-8", "replace").decode(): member for name, member in value.items()}
        try:
            model.__pydantic_validator__.validate_python(printable)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
    failures = []
    for failure in found:
        location = (*at, *failure["loc"])
        failures.append((location, of_field(location, *_code_and_detail(failure))))
    return None, failures


def _code_and_detail(failure: ErrorDetails) -> tuple[FailureCode, str]:
    code, sentence = _SENTENCES.get(failure["type"], (None, None))
    if code is not None and sentence is not None:
        return code, sentence(failure.get("ctx", {}))
    return _OWN_CODES.get(failure["type"], FailureCode.INVALID), failure["msg"]


def fast_validate(body: type[Body], raw: bytes) -> Body | None:
    """The body in ``raw`` when it is valid without doubt; None when `validate` must decide.

    Pydantic takes the last of two equal names.  Each name has its colon, so an equal count of colons and of set names
    means that no name came twice, and that no string holds a colon.
    """
    try:
        valid: Body = body.__pydantic_validator__.validate_json(raw)
    except ValidationError:
        return None
    return valid if valid.json_key_count() == raw.count(b":") else None


async def validate(body: type[Body], value: object, piece: Piece) -> tuple[Body | None, list[Failure]]:
    """The body a JSON value is, or what is wrong with it; the loop turns between messages."""
    cross = body.cross_field_errors(value) if isinstance(value, dict) else []
    failures: list[_Failure] = []
    if body is AddMessagesBody and isinstance(value, dict) and isinstance(messages := value.get("messages"), list):
        valid_messages, failures = await _valid_messages(messages, piece)
        value = value | {"messages": valid_messages}
    valid, others = _validated(body, value)
    failures += others
    if not failures and not cross:
        return valid, []
    order = {field.alias: place for place, field in enumerate(body.model_fields.values())}
    failures.sort(key=lambda failure: order.get(str(failure[0][0]) if failure[0] else None, len(order)))
    return None, [failure for _, failure in failures] + cross


async def _valid_messages(messages: list[object], piece: Piece) -> tuple[list[NewMessageBody], list[_Failure]]:
    """As many messages, each that is not valid replaced by one that is, and the failures of those."""
    if len(messages) > MESSAGES_A_COMMAND:
        return [_VALID_MESSAGE] * len(messages), []  # the only failure is that there are too many
    valid: list[NewMessageBody] = []
    failures: list[_Failure] = []
    for index, message in enumerate(messages):
        found = None
        if len(failures) <= REFUSED_MESSAGES:
            found, more = _validated(NewMessageBody, message, ("messages", index))
            failures += more
            await piece.pause()
        valid.append(found or _VALID_MESSAGE)
    return valid, failures
