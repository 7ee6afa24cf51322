"""Run a command in namespaces of its own (network, mounts, processes), in which a node can neither reach nor disturb the machine.

The network has no uplink.  With the command's end every process and every mount of the node is gone, however it ended;
the cgroups that kubelet made are removed afterwards.  On a cluster that `$KUBECONFIG` names there is nothing to enter.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.cluster.program import end_with_parent

CGROUP_VARIABLE: Final = "THREADCLUSTER_NODE_CGROUP"
"""Under which cgroup, the same in every hierarchy, the node's pods are."""

_ENDING_S: Final = 10.0


def enter(command: Sequence[str]) -> int:
    """Run ``command`` apart from this machine; its exit status."""
    cgroup = f"threadcluster-{secrets.token_hex(4)}"
    hierarchies = list(_hierarchies())
    for hierarchy in hierarchies:
        (hierarchy / cgroup).mkdir()
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--", *command]
    environ = os.environ | {CGROUP_VARIABLE: cgroup}
    running = subprocess.Popen(apart, env=environ, preexec_fn=end_with_parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has got it too, and ends in order
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return running.wait()
    finally:
        running.kill()
        running.wait()
        for hierarchy in hierarchies:
            _remove(hierarchy / cgroup)


def _hierarchies() -> Iterator[Path]:
    """Where cgroups are mounted: one folder, or with version 1 one a controller."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup"):
            yield Path(before.split()[4])


def _remove(cgroup: Path) -> None:
    """Remove it and what is in it; the last of its processes may still be ending."""
    for child in cgroup.iterdir():
        if child.is_dir():
            _remove(child)
    deadline = time.monotonic() + _ENDING_S
    while True:
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    if os.environ.get("KUBECONFIG"):
        os.execvp(sys.argv[1], sys.argv[1:])  # what the Makefile says
    raise SystemExit(enter(sys.argv[1:]))
