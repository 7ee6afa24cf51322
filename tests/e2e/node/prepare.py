"""All that a node needs and that is made once: the programs of Kubernetes, and the image of the project."""

import os

from tests.e2e.cluster.build import CONTROL_PLANE, NODE, Missing, build, kubernetes
from tests.e2e.node import image, packages


def main() -> None:
    """Say what is missing, or make it."""
    if os.environ.get("KUBECONFIG"):
        return
    try:
        packages.check()
        if not os.environ.get("KUBEBUILDER_ASSETS"):
            build()
        kubernetes((*CONTROL_PLANE, *NODE))
        image.build()
    except Missing as reason:
        raise SystemExit(f"make test-node: {reason}") from None


if __name__ == "__main__":
    main()
