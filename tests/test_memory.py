"""The memory budget: from control groups of both versions, in a container and outside."""

from pathlib import Path

import pytest

from shard_worker.memory import LEAST_BUDGET, UNLIMITED_BUDGET, MemoryBudget, default_budget, memory_limit

GIB = 1 << 30


def machine(root: Path, cgroup: str | None, **limits: str) -> Path:
    """A machine's files; keys are paths with ``__`` for ``/``."""
    (root / "proc/self").mkdir(parents=True)
    if cgroup is not None:
        (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("_bytes", "_in_bytes")
        path = Path(str(path).replace("memory_limit", "memory.limit"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "limits", "limit"),
    [
        (None, {}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"memory_max": str(GIB)}, GIB),
        ("0::/kubepods/pod1/c1\n", {"kubepods__pod1__c1__memory_max": "max"}, None),
        (
            "0::/kubepods/pod1/c1\n",
            {"kubepods__pod1__c1__memory_max": str(2 * GIB), "kubepods__pod1__memory_max": str(GIB)},
            GIB,
        ),
        ("5:cpu:/a\n4:memory:/docker/c1\n0::/x\n", {"memory__memory_limit_bytes": str(GIB)}, GIB),
        ("4:memory:/docker/c1\n", {"memory__docker__c1__memory_limit_bytes": "9223372036854771712"}, None),
        ("4:memory,hugetlb:/a\n", {"memory__a__memory_limit_bytes": str(GIB)}, GIB),
    ],
    ids=["no-proc", "no-limit", "container", "max", "parent", "v1-container", "v1-unlimited", "v1-joined"],
)
def test_the_least_limit_of_the_groups_around_holds(
    tmp_path: Path, cgroup: str | None, limits: dict[str, str], limit: int | None
) -> None:
    """Version 2 and 1, own group or one above, namespaces or not."""
    assert memory_limit(machine(tmp_path, cgroup, **limits)) == limit


def test_the_budget_leaves_memory_for_the_process(tmp_path: Path) -> None:
    """Never less than a few threads at their limits; a fixed size without a limit."""
    assert default_budget(tmp_path) == UNLIMITED_BUDGET
    root = machine(tmp_path, "0::/\n", memory_max=str(GIB))
    assert default_budget(root) == (GIB - (256 << 20)) * 3 // 4
    (root / "sys/fs/cgroup/memory.max").write_text(str(128 << 20))
    assert default_budget(root) == LEAST_BUDGET


def test_a_budget_counts() -> None:
    """Memory that is reserved and released, and memory that is counted elsewhere."""
    memory = MemoryBudget(10)
    waiting = [0]
    memory.include(lambda: waiting[0])
    seen: list[tuple[int, bool]] = []
    for taken, waits in ((11, 0), (-1, 0), (0, 3)):
        memory.take(taken)
        waiting[0] = waits
        seen.append((memory.used, memory.exceeded))
    assert seen == [(11, True), (10, False), (13, True)]
