"""The chat drive and its verification, against a server that is honest, clumsy, or lying."""

import asyncio
from pathlib import Path

import pytest

from tests.fakes.http_server import Faults, pretending
from tests.support.load.chat import Record, Recorder, drive, verify
from tests.support.load.figures import Figures
from tests.support.load.record import Sent


async def _drive(url: str, *, attempts: int = 600, clients: int = 8) -> tuple[Record, Figures]:
    figures = Figures(limit=attempts)
    record = await drive(url, clients=clients, duration_s=20, seed=11, grace_s=5, figures=figures)
    return record, figures


async def test_an_honest_server_has_no_findings() -> None:
    """Against a correct server a drive acknowledges commands of every kind, and the verification finds nothing."""
    async with pretending() as server:
        record, figures = await _drive(server.address)
        assert await verify(server.address, record) == []
    kinds = {done.sent.operation for done in record.acknowledged}
    assert kinds == {"create", "add", "remove", "join", "leave"}
    assert figures.balance() is None
    assert record.unresolved == ()


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(drop_answers=7), id="answers cut off after storing"),
        pytest.param(Faults(busy=5), id="busy now and then"),
        pytest.param(Faults(unknown=6), id="outcome unknown, stored or not"),
    ],
)
async def test_trouble_that_the_contract_allows_is_ridden_out(faults: Faults) -> None:
    """Lost answers and 503s are retried with the same key until they are settled, and nothing is found amiss."""
    async with pretending(faults) as server:
        record, figures = await _drive(server.address)
        assert await verify(server.address, record) == []
    assert max(done.attempts for done in record.acknowledged) > 1
    assert figures.balance() is None


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        pytest.param(Faults(lose=20), "is not there", id="loses"),
        pytest.param(Faults(drop_answers=7, forget_keys=True), "is listed 2 times", id="doubles"),
        pytest.param(Faults(swap=10), "comes before one sent earlier", id="reorders"),
        pytest.param(Faults(resurrect=True), "and is still there", id="keeps what was removed"),
        pytest.param(Faults(misnumber=9), "were given the sequence number", id="numbers twice"),
        pytest.param(Faults(stale_reads=True), "a stale read", id="reads stale"),
        pytest.param(Faults(liar_busy=9), "but", id="stores what it refused"),
    ],
)
async def test_a_lie_is_found(faults: Faults, sentence: str) -> None:
    """Each way to break a promise leads to a finding that names it."""
    async with pretending(faults) as server:
        record, _ = await _drive(server.address)
        findings = await verify(server.address, record, resend=0)
    assert any(sentence in finding for finding in findings), findings


async def test_a_forgotten_key_is_found_by_sending_again() -> None:
    """A server that applies an old command once more is found by the sample that is sent again."""
    async with pretending(Faults(forget_keys=True)) as server:
        record, _ = await _drive(server.address)
        findings = await verify(server.address, record, resend=10)
    assert any("sent again" in finding for finding in findings), findings


async def test_a_drive_ends_when_its_event_is_set() -> None:
    """`until` ends the drive, whatever is in flight, and all answers until then are in the record."""
    async with pretending() as server:
        stop = asyncio.Event()
        recorder = Recorder()
        driving = asyncio.create_task(drive(server.address, clients=4, until=stop, recorder=recorder))
        async with asyncio.timeout(10):
            while recorder.acknowledged_count < 50:
                await asyncio.sleep(0)
            stop.set()
            record = await driving
        assert len(record.acknowledged) >= 50
        assert await verify(server.address, record) == []


async def test_a_server_that_is_gone_leaves_nothing_owed() -> None:
    """When no connection can be made nothing was sent, so the record is empty and the drive ends in time."""
    async with pretending() as server:
        address = server.address
    async with asyncio.timeout(10):
        figures = Figures()
        record = await drive(address, clients=2, duration_s=0.2, grace_s=0.2, figures=figures)
    assert (record.acknowledged, record.unresolved, figures.sent) == ((), (), 0)
    assert figures.not_sent > 0


async def test_one_address_of_two_being_dead_costs_retries_alone() -> None:
    """A client whose address does not answer goes on at the next one."""
    async with pretending() as gone:
        dead = gone.address
    async with pretending() as server:
        figures = Figures(limit=200)
        record = await drive([dead, server.address], clients=4, duration_s=20, figures=figures)
        assert await verify([dead, server.address], record) == []
    assert len(record.acknowledged) > 100


def test_a_record_survives_a_file(tmp_path: Path) -> None:
    """A record written by one process is read whole by another."""
    recorder = Recorder(seed=3, clients=1)
    sent = Sent(0, 1, "add", "T", "A", "/p", "{}", "k", texts=("x",))
    recorder.acknowledge(sent, {"sequenceNr": 2, "messageIds": ["M"]})
    recorder.refuse(sent, 409, "message-limit")
    recorder.leave_unresolved(sent)
    recorder.surprise("odd")
    recorder.surprise("odd")
    recorder.record().save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == recorder.record()
    assert recorder.record().surprises == ("odd (2 times)",)


async def test_a_drive_without_an_end_is_refused() -> None:
    """Neither a duration nor an event: refused by name before anything is sent."""
    with pytest.raises(ValueError, match="duration_s or until"):
        await drive("http://127.0.0.1:1")
