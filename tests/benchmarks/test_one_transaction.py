"""The baseline stores what the worker stores: it must be slower for its transactions alone."""

import asyncio

import asyncpg
import pytest

from shard_worker.contract import CommandRequest, Done, Unavailable
from shard_worker.domain.commands import AddMessages, CreateThread, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_text
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal
from tests.benchmarks.fence import prepare_shards
from tests.benchmarks.one_transaction import OneTransaction, make_pool
from tests.conftest import MakeDatabase

_ANN, _BOB = AccountId(ulid_text(b"a" * 16)), AccountId(ulid_text(b"b" * 16))


def _create(thread_id: ThreadId) -> CommandRequest:
    return CommandRequest(CreateThread(thread_id, _ANN, "title", None, None, True, (_ANN,), (_ANN,), 0), bytes(16))


def _add(thread_id: ThreadId, number: int, by: AccountId = _ANN) -> CommandRequest:
    message_id = MessageId(ulid_text(number.to_bytes(16, "big")))
    return CommandRequest(AddMessages(thread_id, by, (NewMessage(message_id, "text", None, ()),), 0), bytes(16))


@pytest.mark.parametrize("form", ["transaction", "statement"])
async def test_every_command_is_one_dense_row(form: str, make_database: MakeDatabase) -> None:
    """Commands on many threads at once become rows, dense a shard and a thread; a refusal becomes none."""
    dsn = await make_database(144)
    connection = await asyncpg.connect(dsn)
    await prepare_shards(connection)
    threads = [ThreadId(ulid_text(number.to_bytes(16, "big"))) for number in range(20)]
    async with make_pool(dsn) as pool:
        service = OneTransaction(pool, shards=144, incarnation="bench", limits=Limits(), form=form)
        await asyncio.gather(*[service.ask(_create(thread), 5) for thread in threads])
        added = await asyncio.gather(*[service.ask(_add(thread, n), 5) for n in range(5) for thread in threads])
        assert sorted(answer.sequence_nr for answer in added if isinstance(answer, Done)) == sorted(
            [2, 3, 4, 5, 6] * 20
        )
        assert isinstance(await service.ask(_add(threads[0], 99, by=_BOB), 5), Refusal)
        stored = await connection.fetch("SELECT max(seq_nr) AS last, count(*) AS n FROM journal GROUP BY thread_id")
        assert [(row["last"], row["n"]) for row in stored] == [(6, 6)] * 20
        await connection.execute("UPDATE shard SET incarnation = 'another'")
        assert isinstance(await service.ask(_add(threads[0], 100), 5), Unavailable)
    await connection.close()
