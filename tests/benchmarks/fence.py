"""Measures the fence's cost: the worker's own append statement against the same insert without it, batch by batch.

The two take turns within one run, each on a connection of its own, so that a slow disk or a busy neighbour strikes both
alike, and the CPU of each is the account of its own backend.  The journal, its indexes and the payloads are the real
ones; everything that the worker does around the statement is left out.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from statistics import median
from typing import Final

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from msgspec import Struct

from shard_worker.journal.append_sql import APPEND_SESSION_SQL, APPEND_SQL, fence_parameters
from tests.benchmarks.cpu import process_cpu_s

BATCH: Final = 32
_THREADS: Final = 2_000
_SHARDS: Final = 144
_PAYLOAD: Final = (
    b'{"senderId":"01HZX3V9Q4M8N7C2K5T6B1D0EF","messages":[{"messageId":"01HZX3V9Q4M8N7C2K5T6B1D0EG",'
    b'"text":"a message of a usual length, as people send them"}],"at":1767225600000,"createAt":1767225600000}'
)
_METADATA: Final = b'{"commandId":"00112233445566778899aabbccddeeff"}'

UNFENCED_SQL: Final = """
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version,
                     payload, metadata, key_hash, body_hash, epoch)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::uuid[], $4::bigint[], $5::smallint[], $6::smallint[],
                     $7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bigint[])
"""
"""The same rows by the same path, trusting the caller's epoch."""


class FenceRound(Struct, frozen=True):
    """One round at one number of shards a batch; CPU is that of the backend, in microseconds an event."""

    shards_a_batch: int
    fenced_events_s: float
    unfenced_events_s: float
    fenced_cpu_us: float
    unfenced_cpu_us: float
    fenced_median_ms: float
    unfenced_median_ms: float

    @property
    def cost(self) -> float:
        """By how much the fence lengthens the append (0.1 = 10 %), medians of batches."""
        return self.fenced_median_ms / self.unfenced_median_ms - 1


class _Rows:
    """Makes batches: dense sequences a shard and a thread, for as long as it is asked."""

    def __init__(self, first_shard: int) -> None:
        self._threads = [uuid.UUID(bytes=os.urandom(16)) for _ in range(_THREADS)]
        self._seq_nr = [0] * _THREADS
        self._shard_seq: dict[int, int] = {}
        self._turn = 0
        self._first_shard = first_shard

    def batch(self, shards: int) -> tuple[list[object], ...]:
        """The ten columns of one batch over this many shards."""
        self._turn += 1
        chosen = [self._first_shard + (self._turn * shards + k) % (_SHARDS // 2) for k in range(shards)]
        columns: tuple[list[object], ...] = tuple([] for _ in range(10))
        for index in range(BATCH):
            shard = chosen[index * shards // BATCH]
            thread = (self._turn * BATCH + index) % _THREADS
            self._seq_nr[thread] += 1
            self._shard_seq[shard] = self._shard_seq.get(shard, 0) + 1
            row = (shard, self._shard_seq[shard], self._threads[thread], self._seq_nr[thread], 7, 1)
            for column, value in zip(columns, (*row, _PAYLOAD, _METADATA, None, None), strict=True):
                column.append(value)
        return columns


async def prepare_shards(connection: asyncpg.Connection) -> None:
    """Give every shard to an imaginary incarnation, at epoch 1."""
    await connection.execute(
        "INSERT INTO shard (id, epoch, owner, incarnation) SELECT g, 1, 'bench', 'bench' FROM generate_series(0, $1) g"
        " ON CONFLICT (id) DO UPDATE SET epoch = 1, owner = 'bench', incarnation = 'bench'",
        _SHARDS - 1,
    )
    await connection.execute("ANALYZE shard")


class FenceBench:
    """Both statements, prepared; `round` runs them in turns.  The journal must be empty, or unused otherwise."""

    def __init__(self, fenced: asyncpg.Connection, unfenced: asyncpg.Connection) -> None:
        self._connections = (fenced, unfenced)
        # Half of the shards each: they never wait for each other, and sequences stay dense.
        self._rows = (_Rows(0), _Rows(_SHARDS // 2))
        self._statements: tuple[PreparedStatement, PreparedStatement] | None = None

    async def prepare(self) -> None:
        """Prepare both; a journal with rows in the way is refused."""
        fenced, unfenced = self._connections
        if await fenced.fetchval("SELECT EXISTS (SELECT FROM journal)"):
            raise RuntimeError("the fence is measured on an empty journal alone")
        await prepare_shards(fenced)
        for connection in self._connections:
            await connection.execute(APPEND_SESSION_SQL)
        self._statements = (await fenced.prepare(APPEND_SQL), await unfenced.prepare(UNFENCED_SQL))

    async def round(self, shards: int, seconds: float) -> FenceRound:
        """Alternate for ``seconds``, the first of each pair changing."""
        assert self._statements is not None, "prepare() first"
        pids = [connection.get_server_pid() for connection in self._connections]
        cpu = [process_cpu_s(pid) for pid in pids]
        took: tuple[list[float], list[float]] = ([], [])
        arguments: tuple[Callable[[], tuple[object, ...]], ...] = (
            lambda: _fenced_arguments(self._rows[0].batch(shards)),
            lambda: _unfenced_arguments(self._rows[1].batch(shards)),
        )
        end = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            for which in (0, 1) if turn % 2 else (1, 0):
                values = arguments[which]()
                began = time.perf_counter()
                await self._statements[which].fetch(*values)
                took[which].append(time.perf_counter() - began)
            await asyncio.sleep(0)
        spent = [process_cpu_s(pid) - before for pid, before in zip(pids, cpu, strict=True)]
        events = len(took[0]) * BATCH
        return FenceRound(
            shards_a_batch=shards,
            fenced_events_s=events / sum(took[0]),
            unfenced_events_s=events / sum(took[1]),
            fenced_cpu_us=spent[0] / events * 1e6,
            unfenced_cpu_us=spent[1] / events * 1e6,
            fenced_median_ms=median(took[0]) * 1000,
            unfenced_median_ms=median(took[1]) * 1000,
        )


def _fenced_arguments(columns: tuple[list[object], ...]) -> tuple[object, ...]:
    shards = sorted({int(str(shard)) for shard in columns[0]})
    return (*fence_parameters([(shard, 1) for shard in shards], "bench"), *columns)


def _unfenced_arguments(columns: tuple[list[object], ...]) -> tuple[object, ...]:
    return (*columns, [1] * BATCH)
