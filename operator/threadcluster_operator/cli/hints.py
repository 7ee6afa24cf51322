"""Hints at what may be meant."""

from collections.abc import Iterable


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """As `threadcluster_operator.api.wording.did_you_mean`, which is slow to import, and is needed after a mistake alone."""
    from threadcluster_operator.api.wording import did_you_mean as hint

    return hint(given, known)
