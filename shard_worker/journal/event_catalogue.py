"""The catalogue of events in docs/events.md: every event type, its versions and fields, as the codec has them.

python -m shard_worker.journal.event_catalogue docs/events.md      write it between the page's markers (`make docs` does)
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from shard_worker.domain.events import Event, PostedMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.journal.codec import EVENT_NAMES, EVENT_VERSIONS, FORMATS, UPCASTERS

BEGIN: Final = "<!-- catalogue of the codec, by `make docs` -->"
END: Final = "<!-- end of the catalogue -->"

_MEANINGS: Final = {
    "creatorId": "the account that created the thread",
    "title": "the thread's title",
    "remarks": "free words about the thread",
    "parentThreadId": "the thread that this one belongs to",
    "administratorIds": "administrators; in ThreadCreated those of the beginning, else those who came or left",
    "memberIds": "members; in ThreadCreated those of the beginning, else those who came or left",
    "at": "the server's time, epoch milliseconds; it never falls within a thread",
    "createAt": "the time that the client named, else the server's, epoch milliseconds",
    "destroyerId": "the account that destroyed the thread",
    "adderId": "the account that let the others in",
    "removerId": "the account that removed; of itself when it left",
    "senderId": "the account that posted",
    "messages": "the messages, in their order",
    "messageIds": "the messages that are no longer shown",
    "messageId": "the message's id",
    "text": "what was posted",
    "replyMessageId": "the message that this one answers",
    "toAccountIds": "the accounts that the message names",
}
"""Of each field, by its name in the payload."""
_PLAIN: Final = {AccountId: "account id", ThreadId: "thread id", MessageId: "message id", int: "integer", str: "text"}


def catalogue() -> str:
    """The catalogue, in Markdown."""
    classes = {each.__name__: each for each in get_args(Event)}
    return "\n".join([line for number in EVENT_NAMES for line in _event(number, classes[EVENT_NAMES[number]])])


def _event(number: int, event: type[msgspec.Struct]) -> Iterator[str]:
    newest = EVENT_VERSIONS[number]
    formats = [f"{v} since format {_first_format(number, v)}" for v in range(1, newest + 1)]
    yield f"### {number}. {event.__name__}"
    yield ""
    yield f"{_first_line(event)} Versions: {', '.join(formats)}."
    for version in range(1, newest):
        yield f"Version {version} is read as {version + 1}: {_first_line(UPCASTERS[number, version])}"
    yield ""
    yield from _fields(event)
    yield ""


def _first_format(number: int, version: int) -> int:
    return min(each for each, versions in FORMATS.items() if versions.get(number, 0) >= version)


def _first_line(described: object) -> str:
    return (described.__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def _fields(struct: type[msgspec.Struct]) -> Iterator[str]:
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for field in msgspec.structs.fields(struct):
        yield f"| `{field.encode_name}` | {_type(field.type)} | {_MEANINGS[field.encode_name]} |"
        if PostedMessage in get_args(field.type):
            for inner in msgspec.structs.fields(PostedMessage):
                name = inner.encode_name
                yield f"| `{field.encode_name}[].{name}` | {_type(inner.type)} | {_MEANINGS[name]} |"


def _type(annotation: Any) -> str:  # a type, a new type or an alias
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join("null" if each is type(None) else _type(each) for each in arguments)
    if get_origin(annotation) is tuple:
        return f"list of {'objects' if arguments[0] is PostedMessage else _type(arguments[0]) + 's'}"
    raise TypeError(f"{annotation} has no name in the catalogue")


def with_catalogue(page: str) -> str:
    """A page with the catalogue of now between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{catalogue()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_catalogue(path.read_text()))
