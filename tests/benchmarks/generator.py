"""The load generator, in a process of its own, so that its cost is separate from that of the measured program.

``wrk`` is used where it is installed; else the raw protocol client of `tests.support.load.wire`, driven from callbacks: a reply
writes the next request in the same turn.  Either way one line of JSON says what was measured, the CPU seconds it took
included: a run whose generator filled its core measured the generator.

The requests come from a file (JSON list of ``[path, body]``, of a GET without a body) and are sent round and round, so none may
carry an id.  With a rate,
each connection sends at its times and not at once; an answer that is late counts from the time at which its request was due.
"""

import argparse
import asyncio
import gc
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from tests.support.load.figures import percentile
from tests.support.load.wire import Exchange, request_bytes

BOUND = 0.95
"""From this share of a core on, a run is called bound by its generator."""


class Measured(Struct, frozen=True):
    """Result of one run of the generator.

    ``requests`` are the successes of the ``seconds`` measured; ``served`` are all answers, those of the warm-up and of
    the end included: the divisor of the server's CPU.  ``failures`` are answers that are not 2xx, and lost connections.
    """

    tool: str
    requests: int
    served: int
    seconds: float
    failures: dict[str, int]
    latency_ms: dict[str, float]
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Successful requests a second."""
        return self.requests / self.seconds

    @property
    def core_share(self) -> float:
        """How much of one core the generator itself took."""
        return self.cpu_s / self.seconds


class _Run:
    """Shared by all connections of a run."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.latencies: array[float] = array("d")
        self.failures: Counter[str] = Counter()
        self.served = 0
        self.measuring = False
        self.over = False
        self.in_flight = 0
        self.idle = asyncio.Event()


class _Hammer(Exchange):
    """One connection: the next request leaves as soon as the reply is read."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run
        self._sent_at = 0.0
        self._waiting = False

    def fire(self) -> None:
        run = self._run
        if run.over or self.transport is None:
            return
        run.in_flight += 1
        self._waiting = True
        self._sent_at = time.perf_counter()
        self.transport.write(next(run.requests))

    def _settled(self) -> None:
        self._waiting = False
        self._run.in_flight -= 1
        if self._run.over and self._run.in_flight == 0:
            self._run.idle.set()

    def replied(self, status: int, body: bytes) -> None:
        run = self._run
        run.served += 1
        if 200 <= status < 300:
            if run.measuring:
                run.latencies.append(time.perf_counter() - self._sent_at)
        else:
            run.failures[f"{status} {_code(body)}"] += 1
        self._settled()
        self.fire()

    def ended(self, reason: str) -> None:
        if self._waiting:
            self._run.failures[f"lost: {reason}"] += 1
            self._settled()


class _Paced(_Hammer):
    """One connection that sends a request every ``every_s`` seconds, the first after ``first_s``."""

    def __init__(self, run: _Run, every_s: float, first_s: float) -> None:
        super().__init__(run)
        self._every_s = every_s
        self._due = time.perf_counter() + first_s

    def fire(self) -> None:
        """Send the next request when it is due."""
        wait_s = self._due - time.perf_counter()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._send, None)
        else:
            self._send(self._due)

    def _send(self, due: float | None) -> None:
        self._due += self._every_s
        super().fire()
        if due is not None:
            self._sent_at = due


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body).get("code", ""))
    except (ValueError, AttributeError):
        return ""


async def hammer(
    host: str,
    port: int,
    requests: list[tuple[str, str]],
    connections: int,
    seconds: float,
    warm_up_s: float,
    rate: float | None,
) -> Measured:
    """Drive with our own client; ``rate`` requests a second in all, or as many as are answered."""
    raw = [
        request_bytes("POST" if body else "GET", path, f"{host}:{port}", body.encode() or None)
        for path, body in requests
    ]
    run = _Run(itertools.cycle(raw))
    loop = asyncio.get_running_loop()

    def made(number: int) -> _Hammer:
        return _Hammer(run) if rate is None else _Paced(run, connections / rate, number / rate)

    opened = [(await loop.create_connection(partial(made, number), host, port))[1] for number in range(connections)]
    gc.collect()
    gc.disable()
    for connection in opened:
        connection.fire()
    await asyncio.sleep(warm_up_s)
    run.failures.clear()
    cpu_began, began = time.process_time(), time.perf_counter()
    run.measuring = True
    await asyncio.sleep(seconds)
    run.measuring = False
    took, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    run.over = True
    async with asyncio.timeout(10):
        if run.in_flight:
            await run.idle.wait()
    for connection in opened:
        if connection.transport is not None:
            connection.transport.abort()
    ordered = sorted(run.latencies)
    marks = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
    latency = {} if not ordered else {label: percentile(ordered, fraction) * 1000 for label, fraction in marks}
    return Measured("own", len(ordered), run.served, took, dict(run.failures), latency, cpu_s)


_LUA = """
local requests = {}
local at = 0
function init(args)
  for line in io.lines(args[1]) do
    local tab = string.find(line, "\\t", 1, true)
    local headers = {["Content-Type"] = "application/json"}
    requests[#requests + 1] = wrk.format("POST", string.sub(line, 1, tab - 1), headers, string.sub(line, tab + 1))
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"us":%d,"status":%d,"lost":%d,"p50":%d,"p90":%d,"p99":%d,"p999":%d,"max":%d}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""


def drive_wrk(host: str, port: int, requests: list[tuple[str, str]], connections: int, seconds: float) -> Measured:
    """Drive with wrk, one thread; it has no warm-up of its own and whole seconds only."""
    whole = max(1, math.ceil(seconds))
    with tempfile.TemporaryDirectory() as folder:
        script, lines = Path(folder, "post.lua"), Path(folder, "requests.tsv")
        script.write_text(_LUA)
        lines.write_text("".join(f"{path}\t{body}\n" for path, body in requests))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "-s", str(script), f"http://{host}:{port}/"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run([*command, "--", str(lines)], check=True, capture_output=True, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    failures = {name: result[name] for name in ("status", "lost") if result[name]}
    return Measured(
        tool="wrk",
        requests=result["requests"] - result["status"],
        served=result["requests"],
        seconds=result["us"] / 1e6,
        failures=failures,
        latency_ms={label: result[label] / 1000 for label in ("p50", "p90", "p99", "p999", "max")},
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def wrk_installed() -> bool:
    """Whether wrk is there to be used."""
    return shutil.which("wrk") is not None


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", choices=["wrk", "own"], required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, default=0.3)
    parser.add_argument(
        "--rate", type=float, default=None, help="requests a second; as many as are answered if missing"
    )
    parser.add_argument("--core", type=int, default=None, help="tie the generator to this core")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    requests = [(path, body) for path, body in json.loads(asked.requests.read_text())]
    if asked.tool == "wrk":
        if asked.rate is not None:
            parser.error("--rate needs the own tool")
        if not all(body for _, body in requests):
            parser.error("a GET needs the own tool")
        measured = drive_wrk(asked.host, asked.port, requests, asked.connections, asked.seconds)
    else:
        measured = uvloop.run(
            hammer(asked.host, asked.port, requests, asked.connections, asked.seconds, asked.warm_up, asked.rate)
        )
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")


if __name__ == "__main__":
    _main()
