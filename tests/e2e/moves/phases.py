"""A handoff held in one of its phases from outside, by nothing but locks in the database and signals.

A shard that clients are busy in is held while its target reads what it will need (a lock on the snapshots), while what
is on its way is stored (a lock on the shard's row, which appends skip), while the statement that gives it waits at the
server (a lock on the receiver's row), or when it was given and its new owner knows nothing (which is frozen before).
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, NamedTuple

import asyncpg

from shard_worker.ownership import store
from shard_worker.ownership.view import EMPTY
from tests.e2e.moves.cluster import NAMES
from tests.e2e.moves.scenario import PhaseNotReachedError, Round

_SEEN_S: Final = 20.0
"""A phase that is not seen by then, does not come; the clients' own bounds are checked elsewhere."""
_WAITS_FOR_SNAPSHOTS_SQL: Final = """
SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                WHERE l.relation = 'snapshot'::regclass AND NOT l.granted AND a.application_name = $1)
"""
_HOLDERS_SQL: Final = """
SELECT a.pid, a.application_name, a.state, a.wait_event, now() - a.xact_start AS since, left(a.query, 80) AS query,
       array_agg(l.relation::regclass::text || ' ' || l.mode) FILTER (WHERE l.granted) AS holds
  FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE a.xact_start < now() - interval '2s' GROUP BY 1, 2, 3, 4, 5, 6
"""
"""Sessions whose transaction is older than any of a worker's may be."""
_ATTEMPTS: Final = 4
"""How often a handoff may pass by before it is held in the phase that is asked for."""
_GIVE_WAITS_SQL: Final = """
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE application_name = $1 AND wait_event_type = 'Lock' AND query LIKE '%receiver AS MATERIALIZED%')
"""
_GIVEN_SQL: Final = "SELECT count(*) FROM shard WHERE id = ANY($1::int[]) AND owner = $2"


class Move(NamedTuple):
    """The handoff that is held."""

    giver: str
    receiver: str
    shards: tuple[int, ...]

    @property
    def third(self) -> str:
        """The worker that has no part in it."""
        return next(name for name in NAMES if name not in (self.giver, self.receiver))


def a_move(this: Round) -> Move:
    """All busy shards of the busiest worker, to one of the others."""
    busy = this.busy()
    by_giver = {name: sorted(this.mark.owned_by(name) & set(busy)) for name in NAMES}
    giver = max(NAMES, key=lambda name: sum(busy[shard] for shard in by_giver[name]))
    receiver = this.dice.choice([name for name in NAMES if name != giver])
    return Move(giver, receiver, tuple(by_giver[giver]))


async def _until(condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await condition():
        if loop.time() >= deadline:
            raise PhaseNotReachedError(f"not within {within_s} s: {what}")
        await asyncio.sleep(0.005)


async def _beats(session: asyncpg.Connection, worker: str) -> None:
    """Return when a worker has beaten again."""

    async def beat() -> int:
        return (await store.read_view(session, EMPTY)).workers[worker].beat

    before = await beat()

    async def more() -> bool:
        return await beat() > before + 3

    await _until(more, f"{worker} beats", within_s=_SEEN_S)


async def _plan(this: Round, move: Move) -> None:
    await this.cluster.workers.plan(dict.fromkeys(move.shards, move.receiver))


@asynccontextmanager
async def _locked(this: Round, statement: str, *arguments: object) -> AsyncIterator[asyncpg.Connection]:
    """A lock held for as long as the block runs; gives another session, to watch who waits for it."""
    async with this.cluster.ownership_log.connected() as session, this.cluster.ownership_log.connected() as watch:
        await session.execute("BEGIN")
        # A session that an earlier round silenced may hold what it had until the server finds it dead: 5 s, and more on a busy machine.
        await session.execute("SET LOCAL lock_timeout = '30s'")
        try:
            await session.execute(statement, *arguments)
        except asyncpg.LockNotAvailableError as error:
            raise PhaseNotReachedError(f"{statement}: {await watch.fetch(_HOLDERS_SQL)}") from error
        try:
            yield watch
        finally:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
                await session.execute("ROLLBACK")


@asynccontextmanager
async def preparing(this: Round, move: Move) -> AsyncIterator[None]:
    """The receiver's loads wait; the giver serves."""
    async with _locked(this, "LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE") as watch:
        await _plan(this, move)

        async def waits() -> bool:
            return bool(await watch.fetchval(_WAITS_FOR_SNAPSHOTS_SQL, this.mark.incarnations[move.receiver]))

        await _until(waits, "the receiver reads snapshots", within_s=_SEEN_S)
        yield


@asynccontextmanager
async def draining(this: Round, move: Move) -> AsyncIterator[None]:
    """The giver admits nothing more; what is on its way stays there, for its shards' rows are locked."""
    async with _locked(
        this, "SELECT FROM shard WHERE id = ANY($1::int[]) ORDER BY id FOR NO KEY UPDATE", list(move.shards)
    ):
        await _plan(this, move)

        async def stopped() -> bool:
            return not set(move.shards) <= set((await this.cluster.workers.ownership(of=move.giver))["serving"])

        await _until(stopped, "the giver drains", within_s=_SEEN_S)
        yield


@asynccontextmanager
async def giving(this: Round, move: Move) -> AsyncIterator[None]:
    """The statement that gives the shards waits at the server for the receiver's row, and its beats with it."""
    # Watched from outside of the transaction: within one, a session sees what others do as of its first look.
    async with this.cluster.ownership_log.connected() as session, this.cluster.ownership_log.connected() as watch:
        for attempt in range(_ATTEMPTS):
            await session.execute("BEGIN")
            async with preparing(this, move):
                # Not before now: a receiver that does not beat is soon given nothing more.
                await session.execute("SELECT FROM worker WHERE id = $1 FOR UPDATE", move.receiver)

            async def waits() -> bool:
                return bool(await watch.fetchval(_GIVE_WAITS_SQL, this.mark.incarnations[move.giver]))

            try:
                await _until(waits, "the giver gives", within_s=2.0)
                break
            except PhaseNotReachedError:
                # On a busy machine the drain may take longer than a silent receiver counts as alive: once more.
                if attempt == _ATTEMPTS - 1:
                    raise
            await this.cluster.workers.plan(dict.fromkeys(move.shards, move.giver))
            await session.execute("ROLLBACK")
            await _beats(watch, move.receiver)
            await this.expect_incarnations()
        try:
            yield
        finally:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
                await session.execute("ROLLBACK")


@asynccontextmanager
async def given(this: Round, move: Move) -> AsyncIterator[None]:
    """The receiver owns shards and does not know it: it was frozen before, and is left so."""
    async with giving(this, move):
        this.cluster.workers.by_name[move.receiver].signal(signal.SIGSTOP)
    async with this.cluster.ownership_log.connected() as session:

        async def named() -> bool:
            return int(await session.fetchval(_GIVEN_SQL, list(move.shards), move.receiver)) > 0

        await _until(named, "the receiver is named", within_s=3.0)
    yield


Phase = Callable[[Round, Move], AbstractAsyncContextManager[None]]
PHASES: Final[dict[str, Phase]] = {"preparing": preparing, "draining": draining, "giving": giving, "given": given}
