"""The memory budget: how many bytes a worker's caches and queues may hold, all of them together.

Threads in memory, threads that were read before their shard comes, snapshots that wait to be written and requests that
wait for a thread are counted by their holders, as estimates.  Resident threads are the elastic part: the least recently
asked leave when the others need the memory.  Each of the others has a part of the budget, and refuses or drops what is
beyond it.

The budget is what the worker's control group leaves beside the process itself; without a control group's limit it is a
fixed size, not a part of the machine's memory, which other programs share.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

UNLIMITED_BUDGET: Final = 512 << 20
"""The budget without a control group's limit: 20,000 threads of a usual size and some at their limits."""
LEAST_BUDGET: Final = 32 << 20
"""Below this a few threads at their limits (3.4 MB each) would push each other out."""
_PROCESS: Final = 256 << 20
"""Memory of a worker beside its budget: the program, batches and pages under way, connections."""
_PART: Final = 0.75
"""Of what the process leaves, the rest being for estimates that are too low and for the allocator's gaps."""
_NO_LIMIT: Final = 1 << 60
"""Control groups of version 1 show a number near 2**63 where there is no limit."""


class MemoryBudget:
    """Bytes in use, and their limit.  Counted here, enforced by the holders."""

    __slots__ = ("_elsewhere", "_taken", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._elsewhere: list[Callable[[], int]] = []

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._taken + sum([count() for count in self._elsewhere])

    def include(self, count: Callable[[], int]) -> None:
        """Include bytes that are counted elsewhere, too often to be counted here as well."""
        self._elsewhere.append(count)

    def take(self, size: int) -> None:
        """Count ``size`` bytes more, or fewer where it is negative."""
        self._taken += size

    @property
    def exceeded(self) -> bool:
        """Whether more is in use than the limit."""
        return self.used > self.limit


class MemoryPart:
    """A part of the budget, for holders of one kind: what they hold counts in both."""

    __slots__ = ("_budget", "_most", "used")

    def __init__(self, budget: MemoryBudget, part: int) -> None:
        self._budget = budget
        self._most = budget.limit // part
        self.used = 0
        """Bytes in use by these holders."""

    def take(self, size: int) -> None:
        """Count ``size`` bytes more, or fewer where it is negative."""
        self.used += size
        self._budget.take(size)

    @property
    def exceeded(self) -> bool:
        """Whether more is in use than the part, or than the whole budget."""
        return self.used > self._most or self._budget.exceeded


def default_budget(root: Path = Path("/")) -> int:
    """The budget in bytes of a worker in its control group, of version 1 or 2; ``root`` is where /proc and /sys are."""
    limit = memory_limit(root)
    return UNLIMITED_BUDGET if limit is None else max(LEAST_BUDGET, int((limit - _PROCESS) * _PART))


def memory_limit(root: Path = Path("/")) -> int | None:
    """The least limit of this process's control group and those around it, in bytes; None where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(mount: Path, path: str, name: str) -> list[int]:
    """The limits from a control group up to its mount; in a container the mount is the group's own."""
    group = Path(path.strip("/"))
    found: list[int] = []
    for place in (group, *group.parents):
        try:
            text = (mount / place / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _NO_LIMIT:
            found.append(int(text))
    return found
