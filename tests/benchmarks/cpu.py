"""CPU time of a process, or of a whole Postgres, from the kernel's own accounts.

Postgres forks a process a connection; when one exits its time moves into the postmaster's account of reaped children.
So the tree's total (the living, plus that account) never falls while nothing outside the tree adopts a child.
"""

import os
from contextlib import suppress

from psutil import NoSuchProcess, Process


def process_cpu_s(pid: int) -> float:
    """User and system seconds of one process, its reaped children included."""
    times = Process(pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def tree_cpu_s(pid: int) -> float:
    """The same of a process and everything below it."""
    total = process_cpu_s(pid)
    for child in Process(pid).children(recursive=True):
        with suppress(NoSuchProcess):
            total += process_cpu_s(child.pid)
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return int(Process(pid).memory_info().rss)


def can_pin() -> bool:
    """Whether this system lets a process be tied to a core, and has two to tie to."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= 2


def cores() -> list[int]:
    """The cores this process may use, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin_tree(pid: int, core: int) -> None:
    """Tie a process, and what lives below it now, to one core; what it forks later inherits that."""
    for member in [Process(pid), *Process(pid).children(recursive=True)]:
        with suppress(NoSuchProcess, ProcessLookupError):
            os.sched_setaffinity(member.pid, {core})
