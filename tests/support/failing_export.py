"""Exports that end at each step at which they ask the disk for something: killed there, or refused by a full disk.

    python -m tests.support.failing_export DSN FOLDER killed|full

For each step a folder of its own, named by it: two runs that end at the step, then one that may reach its end.  Prints how many
steps an export has that nothing ends.
"""

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shard_worker.journal.export.manifest import ExportRefused
from shard_worker.journal.export.run import Options, export

_OPTIONS = Options(file_events=2, texts=True)
_STEPS_MOST = 60
_NEVER = 1 << 30
_ENDED = {"killed": 9, "full": 28}


def _run(dsn: str, folder: Path, how: str, last: int) -> None:
    """An export that ends at its step ``last``."""
    steps = 0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == last and how == "killed":
                os._exit(_ENDED[how])
            if steps == last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            return work(*arguments, **options)

        return step

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "unlink")):
        setattr(owner, name, counted(getattr(owner, name)))
    try:
        asyncio.run(export(dsn, folder, _OPTIONS, progress=lambda _: None))
    except ExportRefused as error:
        os._exit(_ENDED[how] if "No space left" in str(error) else 1)
    os._exit(0)


def _status(dsn: str, folder: Path, how: str, last: int) -> int:
    """The exit status of a run in a process of its own."""
    child = os.fork()
    if child == 0:
        _run(dsn, folder, how, last)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Every step in turn."""
    dsn, root, how = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    for step in range(1, _STEPS_MOST):
        folder = root / str(step)
        first, second, last = (_status(dsn, folder, how, each) for each in (step, step, _NEVER))
        assert first in (0, _ENDED[how]), (step, first)
        assert second in (0, _ENDED[how]), (step, second)
        assert last == 0, (step, last)
        if first == 0:
            print(step - 1)
            return
    sys.exit(f"an export of few events has {_STEPS_MOST} steps")


if __name__ == "__main__":
    main()
