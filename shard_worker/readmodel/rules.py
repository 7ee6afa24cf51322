"""The versions of the read model that this release feeds: each with the rules of its projection and the tables that they fill.

A changed rule or table is a new version.  A release feeds the version of the release before too, so that queries can go on, and a
roll-back is possible, whichever of the two is in use: `docs/read-model.md`, Versions.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from shard_worker.readmodel.projection import Changes


class Rules(NamedTuple):
    """The rules of one version."""

    changes: Callable[[], Changes]
    """An empty net change of a batch."""
    make: str
    """The SQL function that makes the tables of a generation."""


RULES: Final[dict[int, Rules]] = {1: Rules(Changes, "make_readmodel_v1")}
"""By version."""


def newest_version() -> int:
    """The version that a rebuild makes."""
    return max(RULES)


def versions() -> tuple[int, ...]:
    """Every version that this release feeds, ascending."""
    return tuple(sorted(RULES))
