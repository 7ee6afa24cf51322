"""The manifests, as kubectl builds them."""

import subprocess
from pathlib import Path
from typing import Final

import yaml

from tests.e2e.cluster.build import kubectl
from tests.support.kube_api import Object
from tests.support.paths import ROOT

MANIFESTS: Final = ROOT / "manifests"


def kustomized(folder: Path) -> list[Object]:
    """Objects that kubectl builds from a folder."""
    done = subprocess.run([kubectl(), "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))
