"""Rotates the logs of processes that hold their log open.

The processes append to a file that they inherited and cannot be asked to open another.  So a log that is full is copied
aside and emptied in place: the processes go on at its beginning, because they append, and ``tail -F`` follows.  Bytes
that a process writes between the last copied byte and the emptying, some microseconds, are lost.
"""

import shutil
from pathlib import Path
from typing import Final

LOG_MOST_BYTES: Final = 16 << 20
"""Size at which a log is rotated.  With `KEPT` old ones a process's logs take four times as much at most, and a little."""
KEPT: Final = 3
"""Old logs that are kept for each process: ``<name>.log.1`` is the newest."""
_CHUNK_BYTES: Final = 1 << 20


def rotate(path: Path, *, most_bytes: int = LOG_MOST_BYTES, kept: int = KEPT) -> bool:
    """Rotate one log when it has grown beyond ``most_bytes``; whether it was.  Raises `OSError`."""
    try:
        if path.stat().st_size <= most_bytes:
            return False
    except FileNotFoundError:
        return False
    fresh = path.with_name(f"{path.name}.new")
    with path.open("rb") as source, fresh.open("wb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK_BYTES)
        copy.write(source.read())  # what came while it was copied
        with path.open("r+b") as log:
            log.truncate(0)
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    fresh.replace(path.with_name(f"{path.name}.1"))
    return True


def last_line(path: Path, *, most: int = 500) -> str:
    """The end of the last line of a log, ``most`` characters of it, or "none"."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16 * most))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "none"
    return lines[-1][:most] if lines else "none"
