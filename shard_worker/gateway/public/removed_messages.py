"""Finding a message that its thread's owner does not hold as live: the read model knows where a removed one was."""

import asyncio
from typing import Final

from shard_worker.contract import Unavailable, UnavailableCode
from shard_worker.domain.ids import MessageId, ThreadId
from shard_worker.gateway.public.service import ReadModel

_BEHIND_S: Final = 3.0
"""How long a request waits for the read model to reach what the owner knows."""
_LOOK_EVERY_S: Final = 0.05
_BEHIND: Final = Unavailable(
    UnavailableCode.READ_MODEL_BEHIND, "the read model does not yet know whether the thread had this message"
)


async def place_of_removed(
    read_model: ReadModel, thread_id: ThreadId, message_id: MessageId, sequence_nr: int
) -> tuple[int, int] | Unavailable | None:
    """Where a message was that is not live at ``sequence_nr``, (sequence number, index); None when it never was one.

    `Unavailable` when the read model does not reach that state of the thread in time.  Raises
    `shard_worker.database.connection.CONNECTION_ERRORS` when it cannot be read.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _BEHIND_S
    while True:
        found = await read_model.message(thread_id, message_id)
        if found.place is not None:
            return found.place
        if found.sequence_nr >= sequence_nr:
            return None
        if loop.time() >= deadline:
            return _BEHIND
        await asyncio.sleep(_LOOK_EVERY_S)
