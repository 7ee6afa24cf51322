"""Requirements of a real node: Linux, root, and some Debian packages; an error names a missing one with its remedy."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.e2e.cluster.build import Missing

CNI: Final = Path("/usr/lib/cni")

_PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    str(CNI / "ptp"): "containernetworking-plugins",
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "pgbouncer": "pgbouncer",
}
"""By a program of each."""


def missing() -> list[str]:
    """The packages that are not installed."""
    where = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return [package for program, package in _PACKAGES.items() if shutil.which(program, path=where) is None]


def check() -> None:
    """Raises `Missing` with what to do when this machine cannot have a node."""
    if sys.platform != "linux":
        raise Missing("a Kubernetes node needs Linux; here, name a cluster with $KUBECONFIG")
    if os.geteuid() != 0:
        raise Missing("a Kubernetes node needs root: run `sudo make test-node`, or name a cluster with $KUBECONFIG")
    lacking = missing()
    if lacking:
        raise Missing(
            f"a Kubernetes node needs {', '.join(lacking)}: apt-get install --no-install-recommends {' '.join(lacking)}"
        )


def main() -> None:
    """Print the packages that are not installed."""
    argparse.ArgumentParser(prog="python -m tests.e2e.node.packages", description=__doc__).parse_args()
    print(" ".join(missing()))


if __name__ == "__main__":
    main()
