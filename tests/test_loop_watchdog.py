"""The watchdog of the event loop: what it measures, what it logs, and that it ends."""

import asyncio
import logging
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from shard_worker.loop_watchdog import HELD_S, LoopWatchdog
from tests.support.polling import eventually


def hold_the_loop(seconds: float) -> None:
    """Use CPU without a turn of the loop."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_watchdog_logs_what_held_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """One line with the lag, the CPU of it, and the function that was running."""
    watchdog = LoopWatchdog()
    watchdog.start()
    try:
        with caplog.at_level(logging.WARNING):
            hold_the_loop(HELD_S * 5)
            await eventually(lambda: watchdog.held == 1, what="a tick after the loop was held")
    finally:
        watchdog.close()
    (line,) = [record for record in caplog.records if record.message == "event loop was held"]
    assert line.__dict__["lag_s"] > HELD_S
    assert line.__dict__["cpu_s"] >= HELD_S * 5 - 0.001
    assert "test_loop_watchdog.py" in line.__dict__["stack"]
    assert "hold_the_loop" in line.__dict__["stack"]


async def test_watchdog_tells_a_busy_machine_from_a_busy_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A thread that only waits has a lag without CPU."""
    watchdog = LoopWatchdog()
    watchdog.start()
    try:
        with caplog.at_level(logging.WARNING):
            threading.Event().wait(HELD_S * 5)
            await eventually(lambda: watchdog.held == 1, what="a tick after the loop was held")
    finally:
        watchdog.close()
    (line,) = [record for record in caplog.records if record.message == "event loop was held"]
    assert line.__dict__["cpu_s"] < HELD_S


async def test_watchdog_shows_histograms_of_lag_and_cpu() -> None:
    """Every tick is counted in both."""
    watchdog = LoopWatchdog()
    registry = CollectorRegistry()
    registry.register(watchdog)

    def count(name: str) -> float:
        return registry.get_sample_value(f"threadcluster_loop_{name}_seconds_count") or 0.0

    watchdog.start()
    try:
        await eventually(lambda: count("lag") >= 3, what="three ticks")
    finally:
        watchdog.close()
    assert count("cpu") == count("lag")
    assert registry.get_sample_value("threadcluster_loop_lag_seconds_bucket", {"le": "+Inf"}) == count("lag")


async def test_watchdog_ends_with_its_thread() -> None:
    """It may be closed twice, and is started once."""
    before = threading.active_count()
    watchdog = LoopWatchdog()
    watchdog.start()
    with pytest.raises(RuntimeError, match="started before"):
        watchdog.start()
    watchdog.close()
    watchdog.close()
    assert threading.active_count() == before


def test_watchdog_logs_a_loop_that_does_not_turn_at_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread does, since no tick comes that could."""
    monkeypatch.setattr("shard_worker.loop_watchdog._STILL_HELD_S", HELD_S)
    watchdog = LoopWatchdog()
    logged = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "event loop does not turn":
                logged.set()

    async def stuck() -> None:
        watchdog.start()
        assert logged.wait(15.0)  # holds the loop until the thread has logged
        watchdog.close()

    handler = Listener()
    logger = logging.getLogger("shard_worker.loop_watchdog")
    logger.addHandler(handler)
    try:
        asyncio.run(stuck())
    finally:
        logger.removeHandler(handler)
    assert "stuck" in next(record for record in caplog.records if record.levelno == logging.ERROR).__dict__["stack"]
