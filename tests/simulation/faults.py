"""The faults of a schedule, and the acts of users and platforms; each fault ends, and returns when.

Not among them: a monotonic clock that leaps ahead of true time, or a boot-time clock that stops.  The lease is
built on those two, and no protocol without them could serve reads from memory.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from tests.simulation import transactions
from tests.simulation.link import Session
from tests.simulation.simulation import World
from tests.simulation.worker import WorkerProcess


class Fault(Protocol):
    """Does something, to a process if one is named; returns for how long that goes on."""

    def __call__(self, world: World, process: WorkerProcess | None = None) -> float: ...


def _victim(world: World) -> WorkerProcess | None:
    found = [each for each in world.processes if each.alive and not each.paused]
    busy = [each for each in found if world.busy(each)]
    if busy and world.rng.random() < 0.5:
        found = busy
    return world.rng.choice(found) if found else None


def _span_s(world: World) -> float:
    """Often around the waits of the protocol."""
    rng = world.rng
    least, most = rng.choice(((0.1, 0.6), (0.5, 1.3), (0.6, 1.0), (1.0, 2.8), (2.8, 3.6), (3.0, 5.0)))
    return rng.uniform(least, most)


def _note(world: World, process: WorkerProcess, what: str, seconds: float) -> float:
    world.watch.hurt(process.name, world.timeline.now + seconds)
    if world.watch.tell is not None:
        world.watch.tell(f"--- {process.name}/{process.number}: {what} for {seconds:.2f} s")
    return seconds


def crash(world: World, process: WorkerProcess | None = None) -> float:
    """Killed; a new process under the same name comes a little later."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    name, back_s = process.name, world.rng.uniform(0.1, 2.0)
    world.kill(process)
    world.timeline.after(back_s, lambda: _back(world, name))
    return _note(world, process, "killed", back_s)


def _back(world: World, name: str) -> None:
    if not world.named(name) and name in world.running and name not in world.lost:
        world.start(name)


def lose(world: World, process: WorkerProcess | None = None) -> float:
    """Killed, and not started again, as a pod on a node that is gone.  A worker that never was is still awaited."""
    process = process or _victim(world)
    if process is None or process.name not in world.db.workers or len({each.name for each in world.processes}) < 3:
        return 0.0
    world.kill(process)
    if not world.named(process.name):
        world.lost.add(process.name)
    return _note(world, process, "lost", 0.0)


def pause(world: World, process: WorkerProcess | None = None) -> float:
    """Stopped and continued; what reaches it is held."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    seconds = _span_s(world)
    process.pause()
    world.timeline.after(seconds, lambda: process.go_on() if process.alive else None)
    return _note(world, process, "paused", seconds)


def suspend(world: World, process: WorkerProcess | None = None) -> float:
    """The same, and its monotonic clock stops; its sessions may be ended meanwhile."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    seconds = _span_s(world)
    process.pause()

    def wake() -> None:
        if process.alive:
            process.clocks.suspended(seconds)
            process.go_on()

    world.timeline.after(seconds, wake)
    _end_sessions(world, process, 0.3)
    return _note(world, process, "suspended", seconds)


def leap(world: World, process: WorkerProcess | None = None) -> float:
    """The clock of its lease leaps ahead."""
    process = process or _victim(world)
    if process is not None:
        process.clocks.leap(world.rng.random())
        _note(world, process, "its clock leaps", 0.0)
    return 0.0


def stall(world: World, process: WorkerProcess | None = None) -> float:
    """Its link to the database holds everything back, and then delivers it; the server may end its sessions meanwhile."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    seconds = _span_s(world)
    world.stall(process, seconds)
    _end_sessions(world, process, 0.4)
    return _note(world, process, "its link stalls", seconds)


def cut(world: World, process: WorkerProcess | None = None) -> float:
    """Some of its sessions break; what was sent on them may still arrive."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    for session in [each for each in world.sessions if each.process is process]:
        if world.rng.random() < 0.6:
            session.cut()
    return _note(world, process, "its sessions break", 1.0)


def hang(world: World, process: WorkerProcess | None = None) -> float:
    """Some of its sessions stand still, and go on later; new ones work."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    seconds = _span_s(world)
    for session in [each for each in world.sessions if each.process is process]:
        if world.rng.random() < 0.5:
            session.hangs_until = world.timeline.now + seconds
    return _note(world, process, "some of its sessions hang", seconds)


def terminate(world: World, process: WorkerProcess | None = None) -> float:
    """The server ends some of its sessions."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    _end_sessions(world, process, 0.6)
    return _note(world, process, "its sessions are ended", 1.0)


def _end_sessions(world: World, process: WorkerProcess, likely: float) -> None:
    for session in [each for each in world.sessions if each.process is process]:
        if world.rng.random() < likely:
            world.db.end(session.backend)


def restart_database(world: World, process: WorkerProcess | None = None) -> float:
    """All sessions and locks are lost at once, and none can be had for a while."""
    del process
    seconds = world.rng.uniform(0.05, 2.0)
    if not world.db.up:
        return 0.0
    if world.watch.tell is not None:
        world.watch.tell(f"--- the database restarts, away for {seconds:.2f} s")
    world.db.restart()

    def up() -> None:
        world.db.up = True

    world.timeline.after(seconds, up)
    return seconds


def usurp(world: World, process: WorkerProcess | None = None) -> float:
    """A second process under the same name, while the first is still there; that one is killed some time later."""
    process = process or _victim(world)
    if process is None or len(world.named(process.name)) != 1 or process.leaving:
        return 0.0
    seconds = world.rng.uniform(0.2, 2.5)
    world.start(process.name)
    if world.rng.random() < 0.4:
        process.pause()
        world.timeline.after(seconds / 2, lambda: process.go_on() if process.alive else None)
    world.timeline.after(seconds, lambda: world.kill(process) if process.alive else None)
    return _note(world, process, "another process has its name", seconds)


def roll(world: World, process: WorkerProcess | None = None) -> float:
    """It leaves by itself, and comes back as a new process."""
    process = process or _victim(world)
    if process is None or process.leaving:
        return 0.0
    name, back_s = process.name, world.rng.uniform(0.5, 3.0)
    process.leave()

    def back() -> None:
        if world.named(name):
            world.timeline.after(0.3, back)
        elif name not in world.lost and int(name.partition("-")[2]) < world.replicas:
            world.running.setdefault(name)
            world.start(name)

    world.timeline.after(back_s, back)
    return _note(world, process, "leaves", back_s)


def edit(world: World, process: WorkerProcess | None = None) -> float:
    """Other replicas are wanted."""
    del process
    world.replicas = world.rng.randint(2, 5)
    if world.watch.tell is not None:
        world.watch.tell(f"--- {world.replicas} replicas are wanted")
    return 0.0


def cordon(world: World, process: WorkerProcess | None = None) -> float:
    """A worker gets no more shards, or must own none, or may again."""
    process = process or _victim(world)
    if process is None:
        return 0.0
    cordoned, draining = world.rng.choice(((True, False), (True, True), (False, True), (False, False), (False, False)))
    if world.watch.tell is not None:
        world.watch.tell(f"--- {process.name}: cordoned {cordoned}, draining {draining}")
    transactions.set_cordon(process.name, cordoned=cordoned, draining=draining).run(world.db)
    return 0.0


def at_step(world: World, faults: Sequence[str], session: Session) -> None:
    """A statement that matters was just sent: its session hangs or breaks, or something else happens, one to three times."""
    process = session.process
    if not isinstance(process, WorkerProcess):
        return
    _go_wrong(world, faults, session, process)
    for _ in range(world.rng.choice((0, 0, 1, 2))):
        after_s = world.rng.random() * 0.4
        world.steps_end = max(world.steps_end, world.timeline.now + after_s)
        world.timeline.after(after_s, partial(_go_wrong, world, faults, session, process))


def _go_wrong(world: World, faults: Sequence[str], session: Session, process: WorkerProcess) -> None:
    may = [each for each in ("hang", "hang", "cut", "pause", "roll", "crash", "usurp") if each in faults]
    now, seconds = world.timeline.now, 0.0
    if not process.alive:
        return
    match world.rng.choice([*may, "any"]):
        case "hang":
            seconds = _note(world, process, "a statement hangs", _span_s(world))
            session.hangs_until = now + seconds
        case "cut":
            session.cut()
            seconds = _note(world, process, "a statement is cut off", 1.0)
        case "any":
            seconds = FAULTS[world.rng.choice(faults)](world)
        case fault:
            seconds = FAULTS[fault](world, process)
    world.steps_end = max(world.steps_end, now + seconds)


FAULTS: Final[Mapping[str, Fault]] = {
    each.__name__: each
    for each in (
        *(crash, lose, pause, suspend, leap, stall, cut, hang, terminate, restart_database, usurp, roll, edit, cordon),
    )
}
