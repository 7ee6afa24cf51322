"""Which cluster a database belongs to, and whether another one may have it: pure.

A cluster id alone is a name that two clusters can share by accident: ``staging/chat`` with the DSN of ``production/chat``, a
restored backup, a copied manifest.  The claim in the database therefore also holds the uid of the ThreadCluster, its
namespace and name, and the uid of the Kubernetes cluster.  Workers refresh the claim like a lease.

However long its holder is silent, a claim passes to another cluster only when that cluster names the holder's uid: a
cluster that is scaled to zero, frozen, or restored from a backup is silent too.  The one exception is the same namespace
and name in the same Kubernetes cluster, where two cannot exist at once: after `SILENCE_S`.
"""

from enum import Enum
from typing import Final, NamedTuple

SILENCE_S: Final = 60.0
"""Time without a refresh after which a ThreadCluster of the same namespace and name takes over: several times the workers'
period of refresh, so that a pause or a fail-over of Postgres is no silence."""


class Claimant(NamedTuple):
    """A cluster that wants a database."""

    cluster_id: str
    uid: str = ""
    """Of the ThreadCluster; locally of the data directory; empty for workers that were started by hand."""
    name: str = ""
    """``<namespace>/<name>``, or the name of a local cluster."""
    site: str = ""
    """The uid of the Kubernetes cluster; locally that of the data directory again."""

    def __str__(self) -> str:
        if not self.uid:
            return f"cluster {self.cluster_id!r}"
        return f"cluster {self.cluster_id!r} (of {self.name}, uid {self.uid}, in {self.site})"


class Claims(NamedTuple):
    """The wish of a cluster to have a database."""

    claimant: Claimant
    take_over: str = ""
    """The uid of the holder that is to be displaced."""


class Claim(NamedTuple):
    """The claim that is in a database."""

    holder: Claimant
    silent_s: float
    """Time since the holder was last seen; infinite for a holder that ended in order."""


class Verdict(Enum):
    """The ways in which a claimant may treat a database that has a claim."""

    MINE = "mine"
    ADOPT = "adopt"
    """The cluster id is the claimant's, and no more is known of the holder."""
    DISPLACE = "displace"
    """The holder's workers are to be fenced first."""
    REFUSED = "refused"


def judge(claim: Claim, claimant: Claimant, take_over: str = "") -> Verdict:
    """Whether ``claimant`` may have the database; ``take_over`` is the uid of the holder that it is to displace."""
    holder = claim.holder
    if holder == claimant:
        return Verdict.MINE
    if not holder.uid:
        return Verdict.ADOPT if holder.cluster_id == claimant.cluster_id else Verdict.REFUSED
    if claimant.uid and take_over == holder.uid:
        return Verdict.DISPLACE
    if _same_object(holder, claimant) and claim.silent_s >= SILENCE_S:
        return Verdict.DISPLACE
    return Verdict.REFUSED


def refusal(claim: Claim, claimant: Claimant) -> str:
    """Why ``claimant`` may not have the database, and what to do, by name."""
    holder = claim.holder
    text = f"the database belongs to {holder}, not to {claimant}"
    if not holder.uid:
        return text
    seen = "which ended in order" if claim.silent_s == float("inf") else f"last seen {claim.silent_s:.0f} s ago"
    if _same_object(holder, claimant):
        return f"{text}; the holder was {seen}, and is displaced after {SILENCE_S:.0f} s of silence"
    return (
        f"{text}; the holder was {seen}. To displace it, name it: spec.database.takeOver: {holder.uid} (for"
        f" `threadcluster local up`: --take-over {holder.uid})"
    )


def _same_object(holder: Claimant, claimant: Claimant) -> bool:
    """Whether both are a ThreadCluster of one namespace and name in one Kubernetes cluster, made one after the other."""
    return bool(claimant.uid) and holder._replace(uid=claimant.uid) == claimant
