"""The observation that is built from the workers' answers: which workers may get a shard, and whose answer counts."""

import msgspec
from msgspec.structs import replace
from threadcluster_operator.planning.observation import Heartbeats, build_observation, is_member, newest
from threadcluster_operator.planning.placement import Worker

from shard_worker.contract_internal import (
    DatabaseReport,
    DatabaseState,
    OwnershipResponse,
    RebuildProgress,
    ShardEntry,
    ShardLoad,
    WorkerEntry,
    shard_state,
    worker_state,
)
from shard_worker.domain.ids import ShardId

NONE: frozenset[str] = frozenset()


def worker(
    name: str,
    *,
    fenced: bool = False,
    leaving: bool = False,
    beat: int = 1,
    cordoned: bool = False,
    draining: bool = False,
) -> WorkerEntry:
    """A worker in an answer."""
    return WorkerEntry(
        name=name,
        incarnation=f"{name}-first",
        state=worker_state(fenced=fenced, leaving=leaving),
        host="127.0.0.1",
        public_port=8080,
        management_port=8081,
        beat=beat,
        leaving=leaving,
        cordoned=cordoned,
        draining=draining,
    )


def shard(id: int, owner: str | None, *, epoch: int = 1, load: float = 0.0) -> ShardEntry:
    """A shard in an answer."""
    return ShardEntry(
        id=ShardId(id),
        owner=owner,
        incarnation=None,
        epoch=epoch,
        state=shard_state(owner=owner, target=owner),
        target=owner,
        reason=None,
        since=None,
        load=ShardLoad(commands_per_second=load),
    )


def answer(
    workers: list[WorkerEntry],
    shards: list[ShardEntry],
    *,
    version: int = 1,
    serving: tuple[int, ...] = (),
    excess: tuple[str, ...] = (),
) -> OwnershipResponse:
    """The answer of a worker."""
    return OwnershipResponse(
        answered_by="a",
        plan_version=version,
        plan_hash="",
        workers=tuple(workers),
        shards=tuple(shards),
        serving=tuple(map(ShardId, serving)),
        excess_privileges=excess,
    )


def test_without_a_known_view_there_is_no_observation() -> None:
    """Neither silence nor a worker that has not read the database yet."""
    silence: dict[str, OwnershipResponse] = {}
    for answers in (silence, {"a": answer([], [])}):
        assert build_observation(answers, running={"a"}, starting=NONE, emptying=NONE) is None


def test_the_view_that_was_read_last_counts() -> None:
    """By the plan's version, then by epochs, then by beats."""
    old = answer([worker("a", beat=9)], [shard(0, "a", epoch=2)])
    for newer in (
        answer([worker("a")], [shard(0, "a")], version=2),
        answer([worker("a", beat=9)], [shard(0, "a", epoch=3)]),
        answer([worker("a", beat=10)], [shard(0, "a", epoch=2)]),
    ):
        assert newest([old, newer]) is newer
        assert newest([newer, old]) is newer
    assert newest([answer([], [], version=9)]) is None


def test_the_answer_of_a_displaced_worker_is_about_another_cluster() -> None:
    """Nothing follows from it, though workers of both have the same names."""
    mine = answer([worker("a"), worker("b")], [shard(0, "a")], serving=(0,))
    theirs = replace(
        answer([worker("b")], [shard(0, "b")], version=9, serving=(0,)), claimed_by_other="it is another's"
    )
    assert build_observation({"b": theirs}, running={"a", "b"}, starting=NONE, emptying=NONE) is None
    assert not is_member("b", theirs)
    found = build_observation({"a": mine, "b": theirs}, running={"a", "b"}, starting=NONE, emptying=NONE)
    assert found is not None
    assert (found.plan_version, found.owners, set(found.serving)) == (1, {0: "a"}, {"a"})


def test_the_farthest_answer_about_a_rebuild_counts() -> None:
    """Workers read it at different moments, and one of an earlier release does not say."""
    rows = [worker(name) for name in ("a", "b", "c")]
    answers = {name: answer(rows, [shard(0, "a")], version=version) for name, version in (("a", 1), ("b", 2), ("c", 3))}
    found = build_observation(answers, running={"a", "b", "c"}, starting=NONE, emptying=NONE)
    assert found is not None
    assert found.rebuild is None
    for name, done in (("a", 4), ("b", 3)):
        progress = RebuildProgress(generation=2, version=1, shards_done=done, shards=12)
        answers[name] = replace(answers[name], rebuild=progress)
    found = build_observation(answers, running={"a", "b", "c"}, starting=NONE, emptying=NONE)
    assert found is not None
    assert found.rebuild == RebuildProgress(generation=2, version=1, shards_done=4, shards=12)


def test_a_worker_may_get_shards_while_it_runs_and_was_not_fenced() -> None:
    """A row outlives its process, and a frozen process its incarnation."""
    rows = [worker(name) for name in ("a", "gone")] + [
        worker("frozen", fenced=True),
        worker("new", fenced=True, leaving=True),
    ]
    found = build_observation(
        {"a": answer(rows, [shard(0, "a", load=2.5)], serving=(0,))},
        running={"a", "frozen", "new"},
        starting={"new", "newer"},
        emptying=NONE,
    )
    assert found is not None
    assert found.workers == {
        "a": Worker("a"),
        "gone": Worker("gone", live=False),
        "frozen": Worker("frozen", live=False),
        "new": Worker("new"),
    }
    assert found.loads == {0: 2.5}
    assert found.serving == {"a": {0}}


def test_wishes_about_workers_are_passed_on() -> None:
    """Of the database, of the worker itself, and of the supervisor."""
    rows = [worker("a", cordoned=True), worker("b", cordoned=True, draining=True), worker("c", leaving=True)]
    rows.append(worker("d"))
    names = {row.name for row in rows}
    found = build_observation({"a": answer(rows, [shard(0, "a")])}, running=names, starting=NONE, emptying={"d"})
    assert found is not None
    assert found.workers == {
        "a": Worker("a", cordoned=True),
        "b": Worker("b", cordoned=True, draining=True),
        "c": Worker("c", leaving=True),
        "d": Worker("d", draining=True),
    }


def test_who_is_no_member_yet_serves_nothing_that_counts() -> None:
    """Its own row is that of its process before."""
    rows = [worker("a"), worker("b", fenced=True)]
    found = build_observation(
        {"a": answer(rows, [shard(0, "a")], serving=(0,)), "b": answer(rows, [shard(0, "a")])},
        running={"a", "b"},
        starting={"b"},
        emptying=NONE,
    )
    assert found is not None
    assert set(found.serving) == {"a"}


def test_what_a_login_may_do_besides_is_known_by_the_worker_that_says_so() -> None:
    """Each worker answers for its own login."""
    row = shard(0, "a", epoch=1)
    answers = {
        "a": answer([worker("a")], [row], excess=("DELETE",)),
        "b": answer([worker("b")], [row]),
    }
    observed = build_observation(answers, running={"a", "b"}, starting=set(), emptying=set())
    assert observed is not None
    assert observed.excess_privileges == {"a": ("DELETE",)}


def test_a_worker_without_its_database_answers_from_memory() -> None:
    """Nothing follows from that, though its answer be the newest; what it serves is its own to say."""
    away = DatabaseReport(state=DatabaseState.DISCONNECTED, since=None, reason="DatabaseUnreachable")
    here = msgspec.structs.replace(away, state=DatabaseState.CONNECTED, reason=None)
    rows = [worker("a"), worker("b")]
    newer = msgspec.structs.replace(answer(rows, [shard(0, "b")], version=7, serving=(0,)), database=away)
    older = msgspec.structs.replace(answer(rows, [shard(0, "a")]), database=here)
    running = {"a", "b"}
    assert build_observation({"b": newer}, running=running, starting=NONE, emptying=NONE) is None
    found = build_observation({"a": older, "b": newer}, running=running, starting=NONE, emptying=NONE)
    assert found is not None
    assert found.owners == {0: "a"}
    assert set(found.serving) == {"a", "b"}


def test_a_worker_whose_beat_advances_lives_whatever_pods_are_known() -> None:
    """A watch that lags behind costs no shard its owner."""
    beats = Heartbeats()
    first = answer([worker("w-0", beat=1), worker("w-1", beat=1)], [shard(0, "w-0")])
    second = answer([worker("w-0", beat=2), worker("w-1", beat=1)], [shard(0, "w-0")])
    assert beats.advancing(first, 10.0) == NONE, "a row may be one that was left behind"
    beating = beats.advancing(second, 10.2)
    assert beating == {"w-0"}
    observed = build_observation({"w-0": second}, running=NONE, starting=NONE, emptying=NONE, beating=beating)
    assert observed is not None
    assert {name: each.live for name, each in observed.workers.items()} == {"w-0": True, "w-1": False}


def test_a_beat_that_stops_shows_no_life_any_more() -> None:
    """Nor does one of a worker that was fenced, though its last change was a moment ago."""
    beats = Heartbeats()
    for beat, at in ((1, 0.0), (2, 0.2)):
        beats.advancing(answer([worker("w-0", beat=beat), worker("w-1", beat=beat)], [shard(0, "w-0")]), at)
    last = answer([worker("w-0", beat=2), worker("w-1", beat=3, fenced=True)], [shard(0, "w-0")])
    assert beats.advancing(last, 15.1) == {"w-0"}
    assert beats.advancing(None, 15.2) == {"w-0"}
    assert beats.advancing(last, 15.3) == NONE


def test_a_new_incarnation_is_a_sign_of_life() -> None:
    """Its beats begin again."""
    beats = Heartbeats()
    beats.advancing(answer([worker("w-0", beat=9)], [shard(0, "w-0")]), 0.0)
    again = msgspec.structs.replace(worker("w-0", beat=1), incarnation="w-0-second")
    assert beats.advancing(answer([again], [shard(0, "w-0")]), 5.0) == {"w-0"}


def test_pins_by_command_are_those_of_the_newest_answer() -> None:
    """They are a part of the plan."""
    older = answer([worker("w-0")], [msgspec.structs.replace(shard(0, "w-0"), pin="w-1")], version=1)
    newer = answer([worker("w-0")], [shard(0, "w-0"), msgspec.structs.replace(shard(1, "w-0"), pin="w-2")], version=2)
    observed = build_observation({"w-0": newer, "w-1": older}, running=NONE, starting=NONE, emptying=NONE)
    assert observed is not None
    assert observed.pins == {1: "w-2"}
