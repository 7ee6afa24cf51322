"""The observation from the workers' answers: receivers of shards, and the newest view."""

from typing import Any

from threadcluster_operator.planning.observation import build_observation
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.workers.client import newest

Row = dict[str, Any]  # JSON
NONE: frozenset[str] = frozenset()


def worker(name: str, state: str = "ready", *, beat: int = 1, **flags: bool) -> Row:
    """A worker in an answer."""
    return {"name": name, "state": state, "beat": beat, "leaving": False, "cordoned": False, "draining": False} | flags


def shard(id: int, owner: str | None, *, epoch: int = 1, load: float = 0.0) -> Row:
    """A shard in an answer."""
    return {"id": id, "owner": owner, "target": owner, "epoch": epoch, "load": {"commandsPerSecond": load}}


def answer(workers: list[Row], shards: list[Row], *, version: int = 1, serving: tuple[int, ...] = ()) -> Row:
    """An answer of a worker."""
    return {"planVersion": version, "workers": workers, "shards": shards, "serving": list(serving)}


def test_without_a_known_view_there_is_no_observation() -> None:
    """Neither silence nor a worker that has not read the database yet."""
    for answers in ({}, {"a": answer([], [])}):
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


def test_a_worker_may_get_shards_while_it_runs_and_was_not_fenced() -> None:
    """A row outlives its process, and a frozen process its incarnation."""
    rows = [worker(name) for name in ("a", "gone")] + [
        worker("frozen", "fenced"),
        worker("new", "fenced", leaving=True),
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
    rows = [worker("a", cordoned=True), worker("b", cordoned=True, draining=True), worker("c", "leaving", leaving=True)]
    rows.append(worker("d"))
    names = {row["name"] for row in rows}
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
    rows = [worker("a"), worker("b", "fenced")]
    found = build_observation(
        {"a": answer(rows, [shard(0, "a")], serving=(0,)), "b": answer(rows, [shard(0, "a")])},
        running={"a", "b"},
        starting={"b"},
        emptying=NONE,
    )
    assert found is not None
    assert set(found.serving) == {"a"}


def test_what_a_login_may_do_besides_is_known_by_the_worker_that_says_so() -> None:
    """One of an older release says nothing of it."""
    row = shard(0, "a", epoch=1)
    answers = {
        "a": answer([worker("a")], [row]) | {"excessPrivileges": ["DELETE"]},
        "b": answer([worker("b")], [row]) | {"excessPrivileges": []},
        "c": answer([worker("c")], [row]),
    }
    observed = build_observation(answers, running={"a", "b", "c"}, starting=set(), emptying=set())
    assert observed is not None
    assert observed.excess_privileges == {"a": ("DELETE",)}
