"""Two installations of the operator over one namespace: one looks after a ThreadCluster, and the other one is refused."""

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from threadcluster_operator.controller.installation import ANSWER_S, CHALLENGE_AGAIN_S, Claim, Rivalry, claim


def test_a_cluster_that_no_installation_has_is_taken() -> None:
    """Also one without a status; its own it keeps, whichever other one asks."""
    assert claim(None, "a", Rivalry(), 0.0) is Claim.TAKE
    assert claim({}, "a", Rivalry(), 0.0) is Claim.TAKE
    assert claim({"operator": "a"}, "a", Rivalry(), 0.0) is Claim.OWN
    assert claim({"operator": "a", "operatorChallenge": "b"}, "a", Rivalry(), 0.0) is Claim.OWN


def test_another_installation_is_challenged_and_displaced_when_it_does_not_answer() -> None:
    """From when the challenge was first seen, also by a process that did not make it."""
    rivalry = Rivalry()
    assert (ANSWER_S, CHALLENGE_AGAIN_S) == (60.0, 600.0)
    assert claim({"operator": "a"}, "b", rivalry, 100.0) is Claim.CHALLENGE
    challenged = {"operator": "a", "operatorChallenge": "b"}
    assert claim(challenged, "b", rivalry, 101.0) is Claim.WAIT
    assert claim(challenged, "b", rivalry, 100.9 + ANSWER_S) is Claim.WAIT
    assert claim(challenged, "b", rivalry, 101.0 + ANSWER_S) is Claim.TAKE


def test_a_challenge_that_is_withdrawn_is_made_again_much_later() -> None:
    """Each costs the cluster two writes of its status."""
    rivalry = Rivalry(challenged_at=100.0)
    assert claim({"operator": "a"}, "b", rivalry, 110.0) is Claim.WAIT
    assert rivalry == Rivalry(-math.inf, 110.0)
    assert claim({"operator": "a"}, "b", rivalry, 109.0 + CHALLENGE_AGAIN_S) is Claim.WAIT
    assert claim({"operator": "a"}, "b", rivalry, 110.0 + CHALLENGE_AGAIN_S) is Claim.CHALLENGE


def test_one_challenges_at_a_time() -> None:
    """Of three installations too; a challenger that is gone itself is followed by the third."""
    rivalry, challenged = Rivalry(), {"operator": "a", "operatorChallenge": "c"}
    assert claim(challenged, "b", rivalry, 0.0) is Claim.WAIT
    assert claim(challenged, "b", rivalry, 2 * ANSWER_S - 1) is Claim.WAIT
    assert claim(challenged, "b", rivalry, 2 * ANSWER_S) is Claim.CHALLENGE
    assert claim({"operator": "a", "operatorChallenge": "d"}, "b", rivalry, 2 * ANSWER_S) is Claim.WAIT


class Rivals(RuleBasedStateMachine):
    """Three installations, of which some live, on one ThreadCluster whose writes are compare-and-set."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.status: dict[str, Any] = {}
        self.memory = {name: Rivalry() for name in "abc"}
        self.looked_at = dict.fromkeys("abc", 0.0)
        self.living = set("abc")
        self.acted: tuple[str, float] = ("", -math.inf)

    @rule(name=st.sampled_from("abc"))
    def look(self, name: str) -> None:
        """One of them looks, if it lives, and acts if it may."""
        if name not in self.living:
            return
        what = claim(self.status, name, self.memory[name], self.now)
        if what is Claim.TAKE:
            self.status = {"operator": name}
        elif what is Claim.CHALLENGE:
            self.status["operatorChallenge"] = name
        elif what is Claim.OWN:
            self.status.pop("operatorChallenge", None)
            last, at = self.acted
            if last not in ("", name) and last in self.living:
                assert self.now - at >= ANSWER_S, "two living installations act"
            self.acted = name, self.now

    @rule(seconds=st.floats(0.1, 25.0))
    def wait(self, seconds: float) -> None:
        """Time passes, in which every installation that lives looks: a challenge is an event."""
        self.now += seconds
        for name in sorted(self.living):
            self.look(name)

    @rule(name=st.sampled_from("abc"))
    def die(self, name: str) -> None:
        """One is removed, or comes back."""
        self.living ^= {name}
        self.memory[name] = Rivalry()

    @invariant()
    def one_is_named(self) -> None:
        """The API server keeps one name."""
        assert self.status.get("operator", "a") in "abc"

    def teardown(self) -> None:
        if not self.living:
            return
        for _ in range(200):
            self.wait(20.0)
        assert self.status["operator"] in self.living


def test_two_living_installations_never_act_in_turn_and_one_that_lives_acts_in_the_end() -> None:
    """Whatever lives, dies and comes back when."""
    run_state_machine_as_test(Rivals, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
