"""Faults of the two sides of a handoff in each of its phases, and their consequences.

A kind is ``<phase>-<blow>-<side>``.  The third worker is never touched: it is there to take over.
"""

import functools
import itertools
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from tests.e2e.moves.cluster import NAMES
from tests.e2e.moves.ownership_log import Change, expect_no_takeover, of_kind
from tests.e2e.moves.phases import PHASES, Move, a_move
from tests.e2e.moves.scenario import Fault, Round

_SIDES: Final = {
    "giver": lambda move: [move.giver],
    "receiver": lambda move: [move.receiver],
    "both": lambda move: [move.giver, move.receiver],
}


async def _strike(this: Round, *, phase: str, blow: str, side: str) -> None:
    move = a_move(this)
    victims = _SIDES[side](move)
    begin, follow = _BLOWS[blow]
    async with PHASES[phase](this, move):
        await this.lasts(this.dice.uniform(0.0, 0.05))
        for victim in victims:
            begin(this, victim)
        await this.lasts(this.dice.uniform(0.0, 0.3))
    if move.receiver not in victims:
        this.cluster.workers.by_name[move.receiver].signal(signal.SIGCONT)  # a phase may have frozen it
    await follow(this, victims)
    _expect_owners(await this.changes(), this.mark.incarnations[move.receiver], phase, blow, move, victims)
    await this.more_acknowledged()


def _expect_owners(changes: list[Change], receiver: str, phase: str, blow: str, move: Move, victims: list[str]) -> None:
    """A transferred shard is the receiver's, until it dies; any other is the giver's, until it dies."""
    fatal = blow in _FATAL
    # A receiver that comes back is given, as a new incarnation, what the plan still wants there.
    handed = {change.shard for change in of_kind(changes, "handoff") if change.incarnation == receiver}
    taken = {(change.shard, change.source) for change in of_kind(changes, "takeover")}
    assert handed <= set(move.shards)
    if phase == "preparing" and fatal:
        assert handed == set(), "given by the dead, or to the dead"
    if phase == "given":
        assert handed != set()
    if not fatal and not (blow == "forget" and phase in ("giving", "given") and move.receiver in victims):
        # The exception: a receiver whose beats had to wait before its session fell silent may not beat again in time.
        expect_no_takeover(changes)
    if fatal:
        wanted = {(shard, move.receiver) for shard in handed if move.receiver in victims}
        wanted |= {(shard, move.giver) for shard in set(move.shards) - handed if move.giver in victims}
        assert {each for each in taken if each[0] in move.shards} == wanted


# --- blows

_SERVER_NOTICES_S: Final = 5.0
"""By the keep-alives that each session of a worker asks the server for."""


def _kill(this: Round, victim: str) -> None:
    this.cluster.workers.by_name[victim].signal(signal.SIGKILL)


def _freeze(this: Round, victim: str) -> None:
    this.cluster.workers.by_name[victim].signal(signal.SIGSTOP)


def _silence(this: Round, victim: str) -> None:
    this.cluster.links[victim].stall()
    this.cluster.workers.by_name[victim].signal(signal.SIGCONT)  # where the phase had frozen it


def _forget(this: Round, victim: str) -> None:
    this.cluster.links[victim].blackhole(server_notices_s=_SERVER_NOTICES_S)
    this.cluster.workers.by_name[victim].signal(signal.SIGCONT)


def _survivors(victims: list[str]) -> list[str]:
    return [name for name in NAMES if name not in victims]


async def _taken_over(this: Round, victims: list[str]) -> list[str]:
    """The living serve all; the victims that had something to take over, which were fenced for it."""
    await this.cluster.served_by(_survivors(victims))
    changes = await this.changes()
    taken = of_kind(changes, "takeover")
    held = {victim: this.mark.owned_by(victim) for victim in victims}
    for change in of_kind(changes, "handoff"):
        held.get(change.source or "", set()).discard(change.shard)
        held.get(change.worker or "", set()).add(change.shard)
    # One that had given away all it owned has nothing that could be taken over.
    assert {change.source for change in taken} == {victim for victim, shards in held.items() if shards}, (held, taken)
    assert len({(change.shard, change.source) for change in taken}) == len(taken), "taken over twice"
    assert len(taken) >= len(this.mark.owned_by(*victims)) - len(of_kind(changes, "handoff"))
    return [victim for victim in victims if held[victim]]


async def _dead(this: Round, victims: list[str]) -> None:
    """The living serve all."""
    for victim in victims:
        await this.cluster.workers.by_name[victim].ended()
    await _taken_over(this, victims)


async def _back(this: Round, victims: list[str]) -> None:
    """Gone for longer than the TTL: the others serve all, and a zombie that comes back writes nothing more."""
    cluster = this.cluster
    fenced = [this.mark.incarnations[victim] for victim in await _taken_over(this, victims)]
    written = [await cluster.ownership_log.written_by(incarnation) for incarnation in fenced]
    for victim in victims:
        cluster.workers.by_name[victim].signal(signal.SIGCONT)
        cluster.links[victim].heal()
    for victim in victims:
        # One that had given away all that it owned goes on as it was.
        if this.mark.incarnations[victim] in fenced:
            await cluster.incarnation_other_than(victim, this.mark.incarnations[victim])
    await this.more_acknowledged(150)
    assert [await cluster.ownership_log.written_by(incarnation) for incarnation in fenced] == written


async def _soon_back(this: Round, victims: list[str]) -> None:
    """Gone for less than the TTL: every shard is served by its owner."""
    await this.lasts(this.dice.uniform(0.0, 1.2))
    for victim in victims:
        this.cluster.workers.by_name[victim].signal(signal.SIGCONT)
    await _served(this, victims)


async def _served(this: Round, victims: list[str]) -> None:
    """Every shard is served, by whomever."""
    del victims
    await this.cluster.served_by(NAMES)


_BLOWS: Final[dict[str, tuple[Callable[[Round, str], None], Callable[[Round, list[str]], Awaitable[None]]]]] = {
    "kill": (_kill, _dead),
    "freeze-shortly": (_freeze, _soon_back),
    "freeze": (_freeze, _back),
    "silence": (_silence, _back),
    "forget": (_forget, _served),
}
_FATAL: Final = ("kill", "freeze", "silence")


def _kind(phase: str, blow: str, side: str) -> tuple[str, Fault]:
    return f"{phase}-{blow}-{side}", functools.partial(_strike, phase=phase, blow=blow, side=side)


KILLS: Final[dict[str, Fault]] = dict(_kind(phase, "kill", side) for phase in PHASES for side in _SIDES)
OTHER_BLOWS: Final[dict[str, Fault]] = dict(
    _kind(phase, blow, side)
    for phase, blow, side in itertools.product(
        PHASES, ("freeze-shortly", "freeze", "silence", "forget"), ("giver", "receiver")
    )
)
