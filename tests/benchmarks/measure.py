"""One measurement: run the generator against a subject, and take the CPU accounts before and after.

The generator is a process of its own for every sample: its memory and its collector are fresh, and its cost is its own.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.benchmarks.cpu import process_cpu_s, tree_cpu_s
from tests.benchmarks.generator import Measured
from tests.benchmarks.samples import Sample
from tests.benchmarks.threads import Requests
from tests.support.programs import Program


class Pins(Struct, frozen=True):
    """The cores things are tied to; None leaves them to the scheduler."""

    server: int | None = None
    rest: int | None = None


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of one whole run."""

    rounds: int = 5
    seconds: float = 3.0
    connections: tuple[int, ...] = (16, 64, 256)
    judged_at: int = 64
    """The number of connections at which ratios are judged."""
    threads: int = 2_000
    fence_seconds: float = 2.0
    fence_shards: tuple[int, ...] = (1, 8, 28)
    """Shards a batch: 28 is what 32 events of 2,000 threads touch of 144 shards."""
    tool: str = "own"
    pins: Pins = Pins()


class MeasureFailed(RuntimeError):
    """A run of the generator failed, or nothing but failures came back."""


async def generate(
    program: Program,
    requests_file: Path,
    connections: int,
    seconds: float,
    tool: str,
    pins: Pins,
    *,
    rate: float | None = None,
) -> Measured:
    """Run the generator once, at ``rate`` requests a second or as fast as they are answered; raises `MeasureFailed`."""
    command = [
        sys.executable, "-m", "tests.benchmarks.generator", "--tool", tool, "--host", "127.0.0.1",
        "--port", str(program.port), "--requests", str(requests_file),
        "--connections", str(connections), "--seconds", str(seconds),
    ]  # fmt: skip
    if rate is not None:
        command += ["--rate", str(rate)]
    if pins.rest is not None:
        command += ["--core", str(pins.rest)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(seconds + 60):
        output, complained = await process.communicate()
    if process.returncode != 0:
        raise MeasureFailed(f"{program.name}: the generator ended with {process.returncode}\n{complained.decode()}")
    measured = msgspec.json.decode(output, type=Measured)
    if measured.requests == 0:
        raise MeasureFailed(f"{program.name}: not one success: {measured.failures}\n{program.log}")
    return measured


def write_requests(folder: Path, requests: Requests) -> Path:
    """Write what the generator sends into its file in a folder."""
    requests_file = folder / "requests.json"
    requests_file.write_text(json.dumps(requests))
    return requests_file


async def sample(
    subject: str,
    program: Program,
    requests_file: Path,
    *,
    connections: int,
    round_number: int,
    postgres_pid: int | None,
    settings: Settings,
) -> Sample:
    """Measure one subject once.  ``postgres_pid`` is the postmaster's, when the subject uses it."""
    began = time.perf_counter()
    server_before = process_cpu_s(program.pid)
    postgres_before = tree_cpu_s(postgres_pid) if postgres_pid is not None else None
    measured = await generate(program, requests_file, connections, settings.seconds, settings.tool, settings.pins)
    server_s = process_cpu_s(program.pid) - server_before
    postgres_s = None
    if postgres_pid is not None and postgres_before is not None:
        postgres_s = tree_cpu_s(postgres_pid) - postgres_before
    # The accounts span the generator's start-up too, in which a server is idle: shares are of the time under load.
    loaded_s = min(time.perf_counter() - began, measured.seconds * measured.served / max(1, measured.requests))
    return Sample(
        subject=subject,
        connections=connections,
        round=round_number,
        measured=measured,
        server_cpu_us=server_s / measured.served * 1e6,
        postgres_cpu_us=None if postgres_s is None else postgres_s / measured.served * 1e6,
        server_core=server_s / loaded_s,
        postgres_core=None if postgres_s is None else postgres_s / loaded_s,
    )
