"""Which installation of the operator looks after a ThreadCluster: pure.

An installation is the namespace that an operator runs in: its replicas share one Lease, and two installations do not.  Two
that watch the same namespace would undo each other's writes, so the first one writes its name into ``status.operator``, and
another one changes nothing.  A name may be that of an installation that is gone: the other challenges it, by
``status.operatorChallenge``, and takes over when the challenge is not withdrawn.  An installation that lives withdraws it with
its next status, which has no such field.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

ANSWER_S: Final = 60.0
"""Time in which an installation withdraws a challenge: longer than another replica takes to lead and to list everything."""
CHALLENGE_AGAIN_S: Final = 600.0
"""Time after a withdrawn challenge until the next one: each is two writes to a ThreadCluster that is well."""


class Claim(Enum):
    """The action of an installation on a ThreadCluster."""

    OWN = "own"
    """Look after it."""
    TAKE = "take"
    """Write its name into the status, and look after it then."""
    CHALLENGE = "challenge"
    """Ask the installation that is named whether it lives."""
    WAIT = "wait"
    """Change nothing."""


@dataclass
class Rivalry:
    """The memory that an installation has of another one at a ThreadCluster; all of it may be lost."""

    challenged_at: float = -math.inf
    withdrawn_at: float = -math.inf
    third: str = ""
    """Another installation that has challenged."""
    third_since: float = -math.inf


def claim(status: Mapping[str, Any] | None, me: str, rivalry: Rivalry, now: float) -> Claim:
    """The action on a ThreadCluster of this status; ``rivalry`` is brought up to date."""
    known = status or {}
    owner, challenger = known.get("operator", ""), known.get("operatorChallenge", "")
    if owner == me:
        return Claim.OWN
    if not owner:
        return Claim.TAKE
    if challenger == me:
        # The challenge of an earlier process of this installation counts from when it was first seen.
        if rivalry.challenged_at == -math.inf:
            rivalry.challenged_at = now
        return Claim.TAKE if now - rivalry.challenged_at >= ANSWER_S else Claim.WAIT
    if rivalry.challenged_at > -math.inf:
        rivalry.challenged_at, rivalry.withdrawn_at = -math.inf, now
    if challenger:
        if rivalry.third != challenger:
            rivalry.third, rivalry.third_since = challenger, now
        # One that neither took over nor was refused is gone itself.
        return Claim.CHALLENGE if now - rivalry.third_since >= 2 * ANSWER_S else Claim.WAIT
    rivalry.third = ""
    if now - rivalry.withdrawn_at < CHALLENGE_AGAIN_S:
        return Claim.WAIT
    return Claim.CHALLENGE
