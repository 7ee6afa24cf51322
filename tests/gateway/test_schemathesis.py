"""Generated requests from the OpenAPI document: no fault, and no answer that it does not declare."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.gateway import closed_codes
from tests.gateway.serving import Served

# The document cannot say all that the API refuses: 1.0 is an integer to JSON Schema and not to the API, a made-up cursor
# is a string like any other, and a thread that was destroyed is gone.  So a 4xx for what fits the schema is no failure.
UNSAYABLE = "positive_data_acceptance"


async def test_no_fault_and_no_undeclared_answer(api: Served, tmp_path: Path) -> None:
    """Every operation, good and bad requests, single and in sequence."""
    await _search(api, tmp_path, examples=3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_no_fault_and_no_undeclared_answer_in_a_long_search(api: Served, tmp_path: Path) -> None:
    """The same with more examples of each operation."""
    await _search(api, tmp_path, examples=50)


async def _search(api: Served, tmp_path: Path, *, examples: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        *("run", f"http://127.0.0.1:{api.port}/openapi.json", "--no-color"),
        *("--max-examples", str(examples), "--exclude-checks", UNSAYABLE),
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": closed_codes.__name__},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60 * examples)
    print(output.decode())  # with the seed
    assert process.returncode == 0
