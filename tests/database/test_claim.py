"""Whose a database is: decided from the claim alone, without a database."""

import itertools

import pytest

from shard_worker.database.claim import SILENCE_S, Claim, Claimant, Verdict, judge, refusal

HOLDER = Claimant("production.chat", "uid-1", "production/chat", "site-1")
BY_HAND = Claimant("production.chat")
ENDED = float("inf")


def others() -> list[Claimant]:
    """Every cluster that differs from the holder in at least one fact, but is not only the same object made again."""
    made = []
    for cluster_id, uid, name, site in itertools.product(
        ("production.chat", "staging.chat"),
        ("uid-1", "uid-2"),
        ("production/chat", "staging/chat"),
        ("site-1", "site-2"),
    ):
        claimant = Claimant(cluster_id, uid, name, site)
        if claimant not in (HOLDER, HOLDER._replace(uid="uid-2")):
            made.append(claimant)
    return made


@pytest.mark.parametrize("silent_s", [0.0, SILENCE_S, 1e9, ENDED])
@pytest.mark.parametrize("claimant", [*others(), BY_HAND], ids=str)
def test_another_cluster_is_refused_however_silent_the_holder_is(claimant: Claimant, silent_s: float) -> None:
    """A cluster at ``replicas: 0``, a frozen one, and one that was restored from a backup are silent too."""
    claim = Claim(HOLDER, silent_s)
    assert judge(claim, claimant) is Verdict.REFUSED
    assert judge(claim, claimant, take_over="uid-3") is Verdict.REFUSED


@pytest.mark.parametrize("claimant", others(), ids=str)
def test_a_cluster_that_names_the_holder_displaces_it(claimant: Claimant) -> None:
    """Also a holder that lives."""
    assert judge(Claim(HOLDER, 0.0), claimant, take_over="uid-1") is Verdict.DISPLACE


def test_workers_by_hand_displace_nothing() -> None:
    """They have no uid that a later cluster could name."""
    assert judge(Claim(HOLDER, ENDED), BY_HAND, take_over="uid-1") is Verdict.REFUSED


@pytest.mark.parametrize(
    ("silent_s", "verdict"),
    [
        (0.0, Verdict.REFUSED),
        (SILENCE_S - 0.1, Verdict.REFUSED),
        (SILENCE_S, Verdict.DISPLACE),
        (ENDED, Verdict.DISPLACE),
    ],
)
def test_the_same_object_made_again_waits_for_silence(silent_s: float, verdict: Verdict) -> None:
    """Two ThreadClusters of one namespace and name do not exist at once, but the pods of the first may outlive it."""
    assert judge(Claim(HOLDER, silent_s), HOLDER._replace(uid="uid-2")) is verdict


@pytest.mark.parametrize("take_over", ["", "uid-1", "uid-2"])
@pytest.mark.parametrize("silent_s", [0.0, ENDED])
def test_the_holder_keeps_what_it_has(silent_s: float, take_over: str) -> None:
    """Whatever is left in ``takeOver`` of the day on which it displaced another cluster."""
    assert judge(Claim(HOLDER, silent_s), HOLDER, take_over) is Verdict.MINE


def test_a_claim_by_the_id_alone_is_adopted_by_a_cluster_of_that_id() -> None:
    """As a database has it whose schema is older than the rest of the claim, or that workers by hand made."""
    claim = Claim(BY_HAND, ENDED)
    assert judge(claim, BY_HAND) is Verdict.MINE
    assert judge(claim, HOLDER) is Verdict.ADOPT
    assert judge(claim, HOLDER._replace(cluster_id="staging.chat")) is Verdict.REFUSED


def test_the_refusal_names_the_holder_and_the_remedy() -> None:
    """The user who decides knows neither of the two by heart."""
    staging = Claimant("staging.chat", "uid-2", "staging/chat", "site-1")
    text = refusal(Claim(HOLDER, 3.4), staging)
    assert "production/chat, uid uid-1, in site-1" in text
    assert "staging/chat, uid uid-2" in text
    assert "last seen 3 s ago" in text
    assert "spec.database.takeOver: uid-1" in text
    assert "ended in order" in refusal(Claim(HOLDER, ENDED), staging)


def test_the_refusal_of_the_same_object_says_when_it_ends() -> None:
    """Nothing is to be done."""
    text = refusal(Claim(HOLDER, 12.0), HOLDER._replace(uid="uid-2"))
    assert "displaced after 60 s of silence" in text
    assert "takeOver" not in text


def test_the_refusal_without_a_uid_names_no_remedy_that_does_not_work() -> None:
    """There is no uid to name."""
    assert refusal(Claim(BY_HAND, ENDED), Claimant("other")) == (
        "the database belongs to cluster 'production.chat', not to cluster 'other'"
    )
