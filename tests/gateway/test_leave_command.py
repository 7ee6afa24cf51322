"""`shard-worker leave`: what a preStop hook calls, against a played worker."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shard_worker.gateway.management.server import ManagementPort
from shard_worker.main import main
from tests.fakes.management_view import MemoryView
from tests.support.management_port import serving


class LeavingView(MemoryView):
    """A worker whose shards go one by one, as often as it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.owned = [5, 5, 2, 0]
        self.end: Callable[[], None] = lambda: None
        """Of the worker's process."""
        self.ends = False
        """Whether its process ends when it is asked a second time."""

    def leave(self) -> int:
        self.left += 1
        if self.ends and self.left > 1:
            self.end()
        return self.owned.pop(0) if len(self.owned) > 1 else self.owned[0]


@pytest.fixture
def view() -> LeavingView:
    """The worker."""
    return LeavingView()


@pytest.fixture
async def environment(view: LeavingView) -> AsyncIterator[dict[str, str]]:
    """Of the worker's pod."""
    port = ManagementPort(view)
    with ExitStack() as stack:
        number = stack.enter_context(serving(port, b"sixteen-letters!"))
        view.end = stack.close
        yield {
            "SHARD_WORKER_MANAGEMENT_PORT": str(number),
            "SHARD_WORKER_BIND": "0.0.0.0",
            "SHARD_WORKER_SECRET": "sixteen-letters!",
        }


async def leave(environment: dict[str, str], *words: str) -> Result:
    """Run the command while the loop goes on serving."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["leave", *words], env=environment)


async def test_it_waits_until_the_worker_owns_nothing(environment: dict[str, str], view: LeavingView) -> None:
    """It needs no option in the worker's own environment, and says how it goes on."""
    result = await leave(environment)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "leaving: 5 shards still here",
        "leaving: 2 shards still here",
        "left: the worker owns nothing",
    ]
    assert view.left == 4


async def test_the_secret_may_be_in_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    """As for the worker itself; and the address may be given."""
    (tmp_path / "secret").write_text("sixteen-letters!\n")
    port = environment["SHARD_WORKER_MANAGEMENT_PORT"]
    result = await leave({"SHARD_WORKER_SECRET_FILE": str(tmp_path / "secret")}, "--address", f"localhost:{port}")
    assert result.exit_code == 0, result.output


async def test_a_worker_that_ends_has_left(environment: dict[str, str], view: LeavingView) -> None:
    """Its port is closed last of all; no client waits for it then."""
    view.owned, view.ends = [5], True
    result = await leave(environment, "--at-least", "60")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "the worker has ended"


async def test_it_waits_for_load_balancers(environment: dict[str, str], view: LeavingView) -> None:
    """They may send requests for a while after the last shard has gone."""
    view.owned = [0]
    began = time.monotonic()
    assert (await leave(environment, "--at-least", "0.3")).exit_code == 0
    assert time.monotonic() - began >= 0.3


async def test_it_asks_beside_the_worker_wherever_that_listens(environment: dict[str, str]) -> None:
    """A worker that listens on every address of both families is asked by loopback."""
    result = await leave({**environment, "SHARD_WORKER_BIND": "::"})
    assert result.exit_code == 0, result.output


async def test_exit_1_when_the_time_is_over(environment: dict[str, str], view: LeavingView) -> None:
    """With what is left, and after how long."""
    view.owned = [7]
    result = await leave({**environment, "SHARD_WORKER_DRAIN_SECONDS": "0.3"})
    assert result.exit_code == 1
    assert "still owns 7 shards after 0.3 s" in result.output
    assert (await leave(environment, "--timeout", "0")).exit_code == 1


async def test_exit_1_when_no_worker_answers(environment: dict[str, str]) -> None:
    """No server there, another server there, or the wrong secret."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        result = await leave(environment, "--address", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"no worker answers at 127.0.0.1:{port}" in result.output
    result = await leave({**environment, "SHARD_WORKER_SECRET": "another-secret-16"})
    assert result.exit_code == 1
    assert "do not hold the same secret" in result.output


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        pytest.param({"SHARD_WORKER_SECRET": ""}, [], "exactly one of SHARD_WORKER_SECRET", id="no secret"),
        pytest.param({"SHARD_WORKER_MANAGEMENT_PORT": "0"}, [], "give --address", id="chosen port"),
        pytest.param({}, ["--address", "nowhere"], "is not HOST:PORT", id="no port"),
        pytest.param({}, ["--timeout", "-1"], "timeout", id="no time"),
    ],
)
async def test_exit_2_for_wrong_options(
    environment: dict[str, str], change: dict[str, str], words: list[str], message: str
) -> None:
    """Each is named."""
    result = await leave({**environment, **change}, *words)
    assert result.exit_code == 2
    assert message in result.output
