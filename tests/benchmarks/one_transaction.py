"""A competent service without group commit: the same API, one transaction a command, a pool of 8.

Same gateway, same domain, same journal row and fence; the state of a thread is cached, as the worker's is, and a lock
a thread keeps its commands in order.  The way to disk differs: every command is decided, then stored by
``BEGIN``, a fenced insert, ``COMMIT`` on a pooled connection, and only then the next command of that thread is looked
at.  The pool's reset between users is off, which spares it a round trip a command.  ``--form statement`` spares it two
more: the fenced insert commits by itself.

Only what the benchmark asks is served: commands; queries are answered as unavailable.  Prints ``ready PORT``.
"""

import argparse
import asyncio
import signal
import time
from typing import Final

import asyncpg
import uvloop

from shard_worker.contract import Answer, CommandRequest, Done, Request, Unavailable, UnavailableCode
from shard_worker.database.connection import open_connection
from shard_worker.domain.commands import Command
from shard_worker.domain.decide import Unchanged, decide, message_ids_of
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ThreadId, shard_of, ulid_uuid
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal
from shard_worker.domain.thread import Thread
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.server import PublicGateway, listening_socket
from shard_worker.gateway.public.service import AnswerSlot
from shard_worker.journal.codec import encode

POOL: Final = 8
INSERT_SQL: Final = """
WITH fence AS (
    SELECT epoch FROM shard WHERE id = $1 AND epoch = $2 AND incarnation = $3 FOR SHARE
)
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version,
                     payload, metadata, key_hash, body_hash, epoch)
SELECT $1, $4, $5, $6, $7, $8, $9, $10, $11, $12, fence.epoch FROM fence
RETURNING seq_nr
"""
_LOST: Final = Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "the shard has another owner")
_NO_QUERIES: Final = Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "the baseline answers no queries")


class _Resident:
    """One thread in memory."""

    __slots__ = ("lock", "state")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.state: Thread | None = None


class OneTransaction:
    """A `ThreadService` on a pool.  The database must be fresh: histories are not read."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", *, shards: int, incarnation: str, limits: Limits, form: str
    ) -> None:
        self._pool = pool
        self._shards = shards
        self._incarnation = incarnation
        self._limits = limits
        self._in_transaction = form == "transaction"
        self._residents: dict[str, _Resident] = {}
        self._heads: dict[int, int] = {}

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """The lane is off: it belongs to what is compared with this."""
        return False

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """Decide, store in a transaction of its own, answer."""
        if not isinstance(request, CommandRequest):
            return _NO_QUERIES
        command: Command = request.command
        resident = self._residents.get(command.thread_id)
        if resident is None:
            resident = self._residents[command.thread_id] = _Resident()
        async with resident.lock:
            decided = decide(resident.state, command, time.time_ns() // 1_000_000, self._limits)
            if isinstance(decided, Refusal):
                return decided
            if isinstance(decided, Unchanged):
                return Done(decided.sequence_nr, decided.message_ids)
            seq_nr = 1 if resident.state is None else resident.state.sequence_nr + 1
            shard_id = shard_of(command.thread_id, self._shards)
            shard_seq = self._heads[shard_id] = self._heads.get(shard_id, 0) + 1
            row = (
                *(shard_id, 1, self._incarnation, shard_seq, ulid_uuid(command.thread_id), seq_nr, *encode(decided)),
                *(b'{"commandId":"%s"}' % request.command_id.hex().encode(), request.key_hash, request.body_hash),
            )
            async with self._pool.acquire() as connection:
                if self._in_transaction:
                    async with connection.transaction():
                        stored = await connection.fetchval(INSERT_SQL, *row)
                else:
                    stored = await connection.fetchval(INSERT_SQL, *row)
            if stored is None:
                return _LOST
            resident.state = evolve(resident.state, decided, seq_nr)
            return Done(seq_nr, message_ids_of(decided))


async def _no_reset(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Leave a connection as it is between two users: they all do the same."""


def make_pool(dsn: str) -> "asyncpg.Pool[asyncpg.Record]":
    """The pool of 8, its sessions set up as the worker's; to be awaited or entered."""

    async def connect(*_: object, **__: object) -> "asyncpg.Connection[asyncpg.Record]":
        return await open_connection(dsn, "one-transaction")

    return asyncpg.create_pool(min_size=POOL, max_size=POOL, connect=connect, reset=_no_reset)


async def _serve(dsn: str, form: str, shards: int, incarnation: str) -> None:
    async with make_pool(dsn) as pool:
        limits = Limits(messages=1_000_000_000)
        service = OneTransaction(pool, shards=shards, incarnation=incarnation, limits=limits, form=form)
        gateway = PublicGateway(service, GatewayOptions(cursor_key=bytes(32), lane=False))
        with listening_socket("127.0.0.1", 0) as listening:
            await gateway.start([listening])
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            print(f"ready {listening.getsockname()[1]}", flush=True)
            await stop.wait()
            await gateway.close()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--form", choices=["transaction", "statement"], default="transaction")
    parser.add_argument("--shards", type=int, default=144)
    parser.add_argument("--incarnation", default="bench")
    asked = parser.parse_args()
    uvloop.run(_serve(asked.dsn, asked.form, asked.shards, asked.incarnation))


if __name__ == "__main__":
    _main()
