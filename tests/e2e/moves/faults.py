"""Faults of one process, one link or the server: what they are, and what must follow from each."""

import os
import signal
from collections.abc import Sequence
from typing import Final

import psutil

from shard_worker.ownership.failure_detector import LOCK_GONE_S
from tests.e2e.moves.cluster import NAMES
from tests.e2e.moves.ownership_log import expect_no_takeover, expect_takeovers, of_kind
from tests.e2e.moves.scenario import Fault, Round

TTL_S: Final = 3.0


def _others(*victims: str) -> list[str]:
    return [name for name in NAMES if name not in victims]


async def _kill(this: Round, victims: Sequence[str]) -> None:
    """Live workers serve the shards of the dead ones, each taken over once, without a restart of the dead."""
    workers = this.cluster.workers
    for victim in victims:
        workers.by_name[victim].signal(signal.SIGKILL)
    for victim in victims:
        await workers.by_name[victim].ended()
    await this.cluster.served_by(_others(*victims))
    changes = await this.changes()
    expect_takeovers(changes, this.mark.owned_by(*victims), *victims)
    assert {change.worker for change in of_kind(changes, "claim")} <= set(_others(*victims))
    await this.more_acknowledged()


async def kill_one(this: Round) -> None:
    """SIGKILL of one worker of three."""
    await _kill(this, [this.dice.choice(NAMES)])


async def kill_two(this: Round) -> None:
    """SIGKILL of two workers of three at once."""
    await _kill(this, this.dice.sample(NAMES, 2))


async def kill_and_restart(this: Round) -> None:
    """SIGKILL of a worker that is started again at once under its name: each of its shards is freed once, and served."""
    victim = this.dice.choice(NAMES)
    worker = this.cluster.workers.by_name[victim]
    await worker.kill()
    await worker.start()
    await this.cluster.served_by(NAMES)
    freed = of_kind(await this.changes(), "takeover", "restart")
    assert sorted(change.shard for change in freed) == sorted(this.mark.owned_by(victim)), f"freed: {freed}"
    assert {change.source for change in freed} == {victim}


async def kill_all_and_restart(this: Round) -> None:
    """SIGKILL of every worker, then all are started again: each shard is freed once, and served."""
    workers = this.cluster.workers
    for worker in workers.by_name.values():
        worker.signal(signal.SIGKILL)
    for worker in workers.by_name.values():
        await worker.ended()
    await workers.start(*NAMES)
    await this.cluster.served_by(NAMES)
    freed = of_kind(await this.changes(), "takeover", "restart")
    assert sorted(change.shard for change in freed) == sorted(this.mark.epochs), f"freed: {freed}"


async def freeze_shortly(this: Round) -> None:
    """SIGSTOP for less than the TTL: no worker is fenced."""
    victim = this.dice.choice(NAMES)
    worker = this.cluster.workers.by_name[victim]
    worker.signal(signal.SIGSTOP)
    await this.lasts(this.dice.uniform(0.1, 1.8))
    worker.signal(signal.SIGCONT)
    await this.cluster.served_by(NAMES)
    await this.more_acknowledged()
    expect_no_takeover(await this.changes())


async def _freeze(this: Round, victims: Sequence[str]) -> None:
    """Each shard has one new owner, the zombies write nothing more, and go on as new incarnations of the same process."""
    cluster = this.cluster
    workers = [cluster.workers.by_name[victim] for victim in victims]
    pids = [worker.pid for worker in workers]
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    await cluster.served_by(_others(*victims))
    expect_takeovers(await this.changes(), this.mark.owned_by(*victims), *victims)
    written = [await cluster.ownership_log.written_by(this.mark.incarnations[victim]) for victim in victims]
    await this.more_acknowledged()
    for worker in workers:
        worker.signal(signal.SIGCONT)
    for victim in victims:
        await cluster.incarnation_other_than(victim, this.mark.incarnations[victim])
    await this.more_acknowledged(200)
    assert [await cluster.ownership_log.written_by(this.mark.incarnations[victim]) for victim in victims] == written
    assert [worker.pid for worker in workers] == pids
    expect_takeovers(await this.changes(), this.mark.owned_by(*victims), *victims)


async def freeze_one(this: Round) -> None:
    """SIGSTOP of one worker for longer than the TTL."""
    await _freeze(this, [this.dice.choice(NAMES)])


async def freeze_two(this: Round) -> None:
    """SIGSTOP of two workers of three for longer than two TTLs, after which the third takes over."""
    await _freeze(this, this.dice.sample(NAMES, 2))


async def reset_link(this: Round) -> None:
    """Every connection of one worker to Postgres is reset, some times over: it connects again each time, and is not fenced
    when it beats again within `LOCK_GONE_S`, as it does unless the machine is short of time.
    """
    victim = this.dice.choice(NAMES)
    longest_s = 0.0
    for _ in range(this.dice.randint(1, 3)):
        silent_s = await this.cluster.ownership_log.silence_after(victim, this.cluster.links[victim].cut)
        longest_s = max(longest_s, silent_s)
        await this.lasts(this.dice.uniform(0.0, 0.3))
        await this.more_acknowledged()
    await this.cluster.served_by(NAMES)
    print(f"  {victim} beat again after {longest_s:.2f} s at most", flush=True)
    changes = await this.changes()
    if longest_s <= LOCK_GONE_S:
        expect_no_takeover(changes)
    assert {change.source for change in of_kind(changes, "takeover", "restart")} <= {victim}


async def silence_link_shortly(this: Round) -> None:
    """A link falls silent, in one direction or in both, for less than the TTL: no worker is fenced."""
    link = this.cluster.links[this.dice.choice(NAMES)]
    up, down = this.dice.choice([(True, False), (False, True), (True, True)])
    link.stall(up=up, down=down)
    await this.lasts(this.dice.uniform(0.1, 1.5))
    link.heal()
    await this.cluster.served_by(NAMES)
    await this.more_acknowledged()
    expect_no_takeover(await this.changes())


async def _part(this: Round, victim: str) -> None:
    """The other workers serve the shards of the worker without Postgres; when its link is back it is a new
    incarnation.
    """
    cluster, incarnation = this.cluster, this.mark.incarnations[victim]
    await cluster.served_by(_others(victim))
    expect_takeovers(await this.changes(), this.mark.owned_by(victim), victim)
    await this.more_acknowledged()
    written = await cluster.ownership_log.written_by(incarnation)
    cluster.links[victim].heal()
    await cluster.incarnation_other_than(victim, incarnation)
    await this.more_acknowledged(200)
    assert await cluster.ownership_log.written_by(incarnation) == written
    expect_takeovers(await this.changes(), this.mark.owned_by(victim), victim)


async def cut_link(this: Round) -> None:
    """A worker's connections are reset and no new ones made, until it was fenced."""
    victim = this.dice.choice(NAMES)
    this.cluster.links[victim].refusing = True
    this.cluster.links[victim].cut()
    await _part(this, victim)


async def silence_link(this: Round) -> None:
    """A link falls silent, in one direction or in both, until its worker was fenced."""
    victim = this.dice.choice(NAMES)
    # With only the way up open its beats still arrive, for as long as its sessions last.
    up, down = this.dice.choice([(True, False), (True, True)])
    this.cluster.links[victim].stall(up=up, down=down)
    await _part(this, victim)


async def restart_postgres(this: Round) -> None:
    """Postgres is stopped as `pg_ctl -m fast` does and started again."""
    await this.cluster.postgres.stop()
    await _no_incarnation_changed(this)


async def kill_postgres(this: Round) -> None:
    """The postmaster and all its backends are killed with kill -9, and it is started again."""
    postgres = this.cluster.postgres
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    for process in [server, *server.children(recursive=True)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    await postgres.wait()
    await _no_incarnation_changed(this)


async def _no_incarnation_changed(this: Round) -> None:
    """The server comes back, at once or after longer than the TTL: no shard changed its owner, no worker its life."""
    if this.dice.random() < 0.3:
        await this.lasts(this.dice.uniform(0.5, TTL_S + 1.0))
    await this.cluster.postgres.start()
    await this.cluster.served_by(NAMES)
    await this.more_acknowledged()
    changes = await this.changes()
    assert of_kind(changes, "claim", "handoff", "takeover", "restart", "release") == []
    assert (await this.cluster.ownership_log.mark()).incarnations == this.mark.incarnations
    for worker in this.cluster.workers.by_name.values():
        assert worker.alive


FAULTS: Final[dict[str, Fault]] = {
    "kill-one": kill_one,
    "kill-two": kill_two,
    "kill-and-restart": kill_and_restart,
    "kill-all-and-restart": kill_all_and_restart,
    "freeze-shortly": freeze_shortly,
    "freeze-one": freeze_one,
    "freeze-two": freeze_two,
    "reset-link": reset_link,
    "silence-link-shortly": silence_link_shortly,
    "cut-link": cut_link,
    "silence-link": silence_link,
    "restart-postgres": restart_postgres,
    "kill-postgres": kill_postgres,
}
