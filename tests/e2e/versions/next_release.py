"""The program `shard-worker` of a next release: in it `MessagesAdded` has a version 2, and so there is a journal format 2.

Its payload has ``posts`` where version 1 has ``messages``.  The class is replaced before anything else is imported, as a
release that changed it would have it.
"""

from typing import Any

from msgspec import Struct

from shard_worker.domain import events
from shard_worker.domain.ids import AccountId


class MessagesAdded(
    Struct, frozen=True, gc=False, rename={"sender_id": "senderId", "messages": "posts", "create_at": "createAt"}
):
    """`events.MessagesAdded` with the field names of version 2."""

    sender_id: AccountId
    messages: tuple[events.PostedMessage, ...]
    at: int
    create_at: int


def renamed(payload: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    """A payload in which one field has another name."""
    return {after if name == before else name: value for name, value in payload.items()}


def main() -> None:
    """Run the program."""
    setattr(events, "Event", events.Event | MessagesAdded)  # noqa: B010 - mypy refuses to assign to a type
    setattr(events, "MessagesAdded", MessagesAdded)  # noqa: B010

    from shard_worker.journal import codec

    number = codec._NUMBERS[MessagesAdded]  # type: ignore[index]
    codec.EVENT_VERSIONS[number] = 2
    codec.FORMATS[2] = codec.FORMATS[1] | {number: 2}
    codec.UPCASTERS[number, 1] = lambda payload: renamed(payload, "messages", "posts")
    codec.DOWNCASTERS[number, 2] = lambda payload: renamed(payload, "posts", "messages")

    from shard_worker.main import main as program

    program()


if __name__ == "__main__":
    main()
