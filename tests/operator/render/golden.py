"""The objects of two clusters as they are to stay: `python -m tests.operator.render.golden` writes them.

A change of the workers' pod template restarts every worker of every cluster, and belongs into the release notes.
Immutable fields of live objects (selectors, names, service names) must never differ.
"""

import json
from pathlib import Path
from typing import Final

from tests.support.rendered_clusters import EVERYTHING, all_objects, cluster

FOLDER: Final = Path(__file__).parent / "golden"

CLUSTERS: Final = {"least": cluster(), "everything": cluster(EVERYTHING, partition=2)}


def text_of(name: str) -> str:
    """The expected file."""
    return json.dumps(all_objects(CLUSTERS[name]), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for each in CLUSTERS:
        (FOLDER / f"{each}.json").write_text(text_of(each))
