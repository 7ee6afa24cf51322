"""Command requests: what a valid body comes to, with the ids and hashes that the gateway adds."""

from typing import Final, Protocol

from shard_worker.contract import CommandRequest
from shard_worker.domain.commands import Command
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.gateway.public import idempotency
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.request_models import CreateThreadBody
from shard_worker.gateway.public.routes import THREAD, CommandRoute
from shard_worker.gateway.public.short_bodies import ShortCreateBody

_BEFORE_THE_ID: Final = "/v1/threads/"


class ValidBody(Protocol):
    """The body of a command, whichever way it came; see `CommandBody` and `ShortBody`."""

    account_id: AccountId

    def command(self, thread_id: ThreadId, now: int, mint: IdGenerator) -> Command: ...

    def compared(self) -> bytes: ...


class CommandRequests:
    """Makes the requests of one gateway; ``id_salt`` is the key of the ids derived from idempotency keys."""

    def __init__(self, id_salt: bytes) -> None:
        self._id_salt = id_salt
        self._mint = IdGenerator()

    def make(self, route: CommandRoute, target: ThreadId, body: ValidBody, key: str | None, now: int) -> CommandRequest:
        """The request for the thread ``target``; ``now`` in epoch milliseconds."""
        command = body.command(target, now, self._mint)
        if key is None:
            return CommandRequest(command, self._mint.command_id())
        path = route.template.replace(THREAD, _BEFORE_THE_ID + target)
        return CommandRequest(
            command,
            self._mint.command_id(),
            idempotency.key_hash(body.account_id, key),
            idempotency.body_hash(path, body.compared()),
        )

    def new_thread_id(self, body: ValidBody, key: str | None, now: int) -> ThreadId:
        """The id of the thread to create: the client's choice, or what the key comes to, or a new one."""
        assert isinstance(body, CreateThreadBody | ShortCreateBody)  # by the route
        if body.thread_id:
            return body.thread_id
        if key is not None:
            return idempotency.thread_id_of(self._id_salt, body.account_id, key)
        return ThreadId(self._mint.ulid(now))
