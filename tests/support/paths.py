"""Where the project's files are."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""The project's folder."""
SAMPLES: Final = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
"""The resources that people begin with."""
LOCAL: Final = ROOT / "manifests" / "samples" / "demo.yaml"
"""The one of them that only the local platform takes."""
