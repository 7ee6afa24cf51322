"""Real workers whose frames pass a relay that changes, repeats, drops and reorders them: nothing wrong is stored."""

from pathlib import Path

import asyncpg
import pytest

from tests.e2e.moves.chatting import chatting
from tests.support.frame_relay import Fault, Relay
from tests.support.polling import eventually
from tests.support.worker_processes import workers_on

FAULTS = (Fault.CHANGE, Fault.REPEAT, Fault.DROP, Fault.REORDER)


async def attack(dsn: str, folder: Path, faults_each: int) -> None:
    """Two workers that ask each other through relays, which attack while clients chat."""
    async with workers_on(dsn, folder, "a", "b") as workers:
        database = await asyncpg.connect(dsn)
        ports = {row["id"]: row["management_port"] for row in await database.fetch("SELECT * FROM worker")}
        async with Relay(ports["a"]) as to_a, Relay(ports["b"]) as to_b:
            for name, relay in (("a", to_a), ("b", to_b)):
                await database.execute("UPDATE worker SET management_port = $2 WHERE id = $1", name, relay.port)
            async with chatting(workers) as recorder:
                for fault in FAULTS:
                    for relay in (to_a, to_b):
                        done = relay.done
                        relay.every = (5, fault)
                        await eventually(
                            lambda relay=relay, done=done: relay.done >= done + faults_each,  # type: ignore[misc]
                            within_s=max(240.0, 10.0 * faults_each),  # a link that fell is left alone for seconds
                            what=f"{fault} done {faults_each} times",
                        )
                        relay.every = (0, None)
            assert to_a.connections > 1
            assert to_b.connections > 1
            texts = [text for each in recorder.record().acknowledged for text in each.sent.texts]
            assert len(texts) > 100
            for text in texts[:100]:
                assert text.encode() not in to_a.seen
                assert text.encode() not in to_b.seen
        await database.close()


async def test_a_relay_that_attacks_breaks_links_and_stores_nothing(dsn: str, tmp_path: Path) -> None:
    """Every acknowledged command is there once and as it was sent; the relays have read no text."""
    await attack(dsn, tmp_path, 1)


@pytest.mark.soak
async def test_a_relay_that_attacks_for_long(dsn: str, tmp_path: Path) -> None:
    """The same, a hundred times each."""
    await attack(dsn, tmp_path, 100)
