"""Logs are rotated while their processes write, within a bound, and are followed across that."""

import subprocess
import sys
from pathlib import Path

from threadcluster_operator.local.log_rotation import last_line, rotate

from tests.support.polling import eventually

WRITER = """
import sys
for number in range(int(sys.argv[1])):
    print(f"line {number:06}", flush=True)
    sys.stdin.readline()
"""


async def test_a_log_is_rotated_while_its_process_writes(tmp_path: Path) -> None:
    """Nothing that was written before or after is lost, old logs are as many as are kept, and `tail -F` goes on."""
    log = tmp_path / "w.log"
    with log.open("ab") as out:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, "1000"], stdin=subprocess.PIPE, stdout=out, text=True)  # noqa: ASYNC220
    followed = (tmp_path / "followed").open("w+")
    follower = subprocess.Popen(  # noqa: ASYNC220
        ["tail", "-n", "+1", "-F", str(log)], stdout=followed, stderr=subprocess.DEVNULL
    )
    try:
        assert writer.stdin is not None
        for number in range(60):
            await _shown(tmp_path / "followed", f"line {number:06}")
            rotate(log, most_bytes=120, kept=2)
            assert log.stat().st_size <= 120
            writer.stdin.write("\n")
            writer.stdin.flush()
        names = sorted(path.name for path in tmp_path.glob("w.log*"))
        assert names == ["w.log", "w.log.1", "w.log.2"]
    finally:
        writer.kill()
        follower.kill()
        writer.wait()
        follower.wait()
        followed.close()


async def _shown(path: Path, line: str) -> None:
    await eventually(lambda: line in path.read_text(), what=f"{line} is followed")


def test_a_log_that_is_not_there_or_small_stays(tmp_path: Path) -> None:
    """It is not rotated."""
    log = tmp_path / "w.log"
    assert not rotate(log)
    log.write_text("one\ntwo\n")
    assert not rotate(log)
    assert last_line(log) == "two"
    assert last_line(tmp_path / "none.log") == "none"
