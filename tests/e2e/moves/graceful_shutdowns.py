"""Workers that leave by SIGTERM, at a good moment and at bad ones, and what must follow.

All workers serve one inherited socket, as they do under a supervisor: a new connection reaches a worker that stays.
"""

import asyncio
import signal
from typing import Final

from tests.e2e.moves.cluster import NAMES
from tests.e2e.moves.ownership_log import expect_no_takeover, of_kind
from tests.e2e.moves.scenario import Fault, Round

PROMPTLY_S: Final = 5.0
_READS: Final = ("read-thread", "read-messages")
_LATE: Final = ("504 read-model-behind", "lost: no reply in time")
"""Outcomes of a read that waited for the read model for as long as it may: on a machine that is short of time, no fault of a move."""


async def _leave(this: Round, *leavers: str, within_s: float = 20.0) -> None:
    """Workers that get SIGTERM at once end in order."""
    workers = [this.cluster.workers.by_name[name] for name in leavers]
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [await worker.ended(within_s) for worker in workers] == [0] * len(workers)


async def _expect_handed_over(this: Round, *leavers: str) -> None:
    """Everything the leavers had was handed over by them, and is served by those who stay."""
    stay = [name for name in NAMES if name not in leavers]
    await this.cluster.served_by(stay)
    changes = await this.changes()
    expect_no_takeover(changes)
    assert of_kind(changes, "release", "claim") == []
    left = {change.shard for change in of_kind(changes, "handoff") if change.source in leavers}
    assert left == this.mark.owned_by(*leavers)


async def _expect_no_failure(this: Round) -> None:
    """No client has seen anything but successes; but a read may come late that waits for the read model."""
    await this.more_acknowledged(200)
    figures = this.figures
    failed = {
        name: each.by_code
        for name, each in figures.operations.items()
        if each.refused + each.unknown > (sum(each.by_code[late] for late in _LATE) if name in _READS else 0)
    }
    assert (failed, figures.not_sent) == ({}, 0)


async def leave_one(this: Round) -> None:
    """One of three leaves: its shards are handed over, and no request fails."""
    leaver = this.dice.choice(NAMES)
    await _leave(this, leaver)
    await _expect_handed_over(this, leaver)
    await _expect_no_failure(this)


async def leave_two(this: Round) -> None:
    """Two of three leave at once: all shards go to the third, and no request fails."""
    leavers = this.dice.sample(NAMES, 2)
    await _leave(this, *leavers)
    await _expect_handed_over(this, *leavers)
    await _expect_no_failure(this)


async def leave_one_by_one(this: Round) -> None:
    """One after the other leaves; the last releases its shards, and ends promptly, for no other worker is there to take
    them.
    """
    *first, last = this.dice.sample(NAMES, 3)
    for leaver in first:
        await _leave(this, leaver)
    await _expect_handed_over(this, *first)
    await _expect_no_failure(this)
    await _leave(this, last, within_s=PROMPTLY_S)
    changes = await this.changes()
    expect_no_takeover(changes)
    assert sorted(change.shard for change in of_kind(changes, "release")) == sorted(this.mark.epochs)
    await this.cluster.workers.start(*NAMES)
    await this.cluster.served_by(NAMES)


async def leave_all(this: Round) -> None:
    """All leave at once: every shard is released by its last owner, and all end promptly."""
    await _leave(this, *NAMES, within_s=PROMPTLY_S)
    changes = await this.changes()
    expect_no_takeover(changes)
    assert {shard for shard, owner in (await this.cluster.ownership_log.mark()).owners.items() if owner is None} == set(
        this.mark.epochs
    )
    await this.cluster.workers.start(*NAMES)
    await this.cluster.served_by(NAMES)


async def _leave_beside(this: Round, leaver: str, gone: str) -> None:
    """The leaving worker hands its shards to the third, which takes over the shards of the other."""
    third = next(name for name in NAMES if name not in (leaver, gone))
    await _leave(this, leaver)
    await this.cluster.served_by([third])
    changes = await this.changes()
    assert {(change.shard, change.source) for change in of_kind(changes, "takeover")} == {
        (shard, gone) for shard in this.mark.owned_by(gone)
    }
    left = {change.shard for change in of_kind(changes, "handoff", "release") if change.source == leaver}
    assert left >= this.mark.owned_by(leaver)
    await this.more_acknowledged()


async def leave_beside_frozen(this: Round) -> None:
    """One leaves while another is frozen."""
    leaver, frozen = this.dice.sample(NAMES, 2)
    this.cluster.workers.by_name[frozen].signal(signal.SIGSTOP)
    await this.lasts(this.dice.uniform(0.0, 1.0))
    await _leave_beside(this, leaver, frozen)
    this.cluster.workers.by_name[frozen].signal(signal.SIGCONT)
    await this.cluster.incarnation_other_than(frozen, this.mark.incarnations[frozen])


async def leave_beside_dead(this: Round) -> None:
    """One leaves at the moment another is killed."""
    leaver, dead = this.dice.sample(NAMES, 2)
    this.cluster.workers.by_name[dead].signal(signal.SIGKILL)
    await this.lasts(this.dice.uniform(0.0, 0.5))
    await asyncio.gather(_leave_beside(this, leaver, dead), this.cluster.workers.by_name[dead].ended())


DEPARTURES: Final[dict[str, Fault]] = {
    "leave-one": leave_one,
    "leave-two": leave_two,
    "leave-one-by-one": leave_one_by_one,
    "leave-all": leave_all,
    "leave-beside-frozen": leave_beside_frozen,
    "leave-beside-dead": leave_beside_dead,
}
