"""A shard whose named owner is dead for any reason is always served again, also in rows that no statement leaves."""

import asyncio
from itertools import product

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_worker.database.connection import Database
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.failure_detector import FailureDetector
from shard_worker.ownership.handoff import LocalShards, LocalState, plan_actions, takeover_targets
from shard_worker.ownership.view import EMPTY, OwnershipView, ShardRow, WorkerRow
from tests.support.members import EVERY, SHARDS, member
from tests.support.polling import eventually

TICK_S = 0.1
HEALED_S = 12.0
"""In simulated time: the TTL of the dead, one more for an observer that may be at fault, and the wait of the last resort."""

OWNERS = [(None, None), *product(("a", "b", "ghost"), ("", "a1", "a0", "b1", "b0", "x"))]
TARGETS = (None, "a", "b", "ghost")
LIVES = {"a": "a1", "b": "b1"}


class Model:
    """The two tables, and what each live worker serves."""

    def __init__(self, workers: dict[str, WorkerRow], alive: set[str]) -> None:
        self.workers = workers
        self.alive = alive
        self.shards = {
            ShardId(number): ShardRow(ShardId(number), 1, owner, incarnation, target, "")
            for number, ((owner, incarnation), target) in enumerate(product(OWNERS, TARGETS))
        }
        self.served: dict[str, set[ShardId]] = {name: set() for name in alive}
        self.observers = {name: FailureDetector() for name in alive}

    def tick(self, now: float) -> None:
        """Every live worker beats, looks and acts once."""
        for name in sorted(self.alive):
            row = self.workers[name]
            self.workers[name] = row._replace(beat=row.beat + 1)
        for name in sorted(self.alive):
            if not self.workers[name].fenced:
                self._turn(name, now)

    def _turn(self, name: str, now: float) -> None:
        view, observer = OwnershipView(dict(self.workers), dict(self.shards), 1, ""), self.observers[name]
        observer.note(view, now)
        live = observer.live(view, now)
        for suspect in observer.suspects(view, name, now):
            self._fence(view, suspect.worker, suspect.incarnation, suspect.beat, live | {name})
        held = LocalShards(self.served[name], self.served[name], frozenset())
        local = LocalState(name, LIVES[name], held, handoffs={}, failed_s={}, leaving=False)
        steps = plan_actions(view, local, live=live, unowned_s=observer.unowned_s(now), now=now)
        self.served[name] -= set(steps.drop)
        for shard_id in steps.claim:
            if self.shards[shard_id].owner is None:
                self._change(shard_id, name, LIVES[name])
                self.served[name].add(shard_id)
        for shard_id in steps.adopt:
            if self.shards[shard_id].incarnation == LIVES[name]:
                self._change(shard_id, self.shards[shard_id].owner, LIVES[name])
                self.served[name].add(shard_id)

    def _fence(self, view: OwnershipView, name: str, incarnation: str, beat: int | None, live: frozenset[str]) -> None:
        """As `store.fence` does."""
        row = self.workers.get(name)
        if beat is None:
            if row is not None and incarnation and row.incarnation == incarnation and not row.fenced:
                return
        else:
            if row is None or (row.incarnation, row.beat) != (incarnation, beat) or row.fenced:
                return
            self.workers[name] = row._replace(fenced=True)
        targets = takeover_targets(view, {(name, incarnation)}, live)
        for shard_id, shard in list(self.shards.items()):
            if (shard.owner, shard.incarnation) == (name, incarnation):
                self._change(shard_id, None, None)
                self.shards[shard_id] = self.shards[shard_id]._replace(target=targets.get(shard_id))

    def _change(self, shard_id: ShardId, owner: str | None, incarnation: str | None) -> None:
        row = self.shards[shard_id]
        self.shards[shard_id] = row._replace(owner=owner, incarnation=incarnation, epoch=row.epoch + 1)

    @property
    def unhealed(self) -> list[ShardRow]:
        """The shards that no live worker serves by its row."""
        return [
            row
            for row in self.shards.values()
            if not any(row.incarnation == LIVES[name] and row.id in self.served[name] for name in self.alive)
        ]


flags = st.booleans()
states = st.builds(
    lambda incarnation, flags: WorkerRow("b", incarnation, "h", 1, 2, 0, *flags),
    st.sampled_from(["b1", "b0", ""]),
    st.tuples(flags, flags, flags, flags, flags),
)
"""Rows of worker ``b``: fenced, leaving, cordoned, draining, locked or not, in every combination."""


@settings(max_examples=40, deadline=None)
@given(
    row=st.none() | states,
    beats=flags,
    idle=st.sampled_from(["", "cordoned", "draining"]),
)
def test_every_row_state_heals(row: WorkerRow | None, beats: bool, idle: str) -> None:
    """Whatever a shard's row names, and whatever is in the row of the worker that it names."""
    workers = {"a": WorkerRow("a", "a1", "h", 1, 2, 0, False, False, idle == "cordoned", idle == "draining", True)}
    if row is not None:
        workers["b"] = row
    lives = beats and row is not None and row.incarnation == "b1" and not row.fenced and not row.leaving
    model = Model(workers, {"a", "b"} if lives else {"a"})
    now = 0.0
    while model.unhealed and now < HEALED_S:
        model.tick(now)
        now += TICK_S
    assert not model.unhealed


async def test_rows_that_no_statement_leaves_are_healed_by_one_worker(dsn: str) -> None:
    """On the real tables, and where the database's own settings are hostile."""
    admin = await asyncpg.connect(dsn)
    name = dsn.rsplit("/", 1)[1]
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    await admin.execute(
        "INSERT INTO worker (id, incarnation, host, public_port, management_port, fenced) VALUES"
        " ('fenced', 'f1', '', 0, 0, true), ('empty', '', '', 0, 0, false), ('silent', 's1', '', 0, 0, false),"
        " ('replaced', 'r2', '', 0, 0, true), ('a', 'a0', '', 0, 0, true)"
    )
    planted = [("fenced", "f1"), ("empty", ""), ("silent", "s1"), ("replaced", "r1"), ("a", "a0"), ("ghost", "g1")]
    for shard, (owner, incarnation) in enumerate(planted):
        await admin.execute("UPDATE shard SET owner = $2, incarnation = $3 WHERE id = $1", shard, owner, incarnation)
    await admin.close()
    async with member(dsn, "a") as a:
        await eventually(lambda: a.shards == EVERY, within_s=30)


async def test_a_fence_that_races_a_claim_frees_every_shard_whatever_the_isolation(dsn: str) -> None:
    """At repeatable read it would not see what the claim that it waited for has won."""
    admin = await asyncpg.connect(dsn)
    name = dsn.rsplit("/", 1)[1]
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    database = Database(dsn, application_name=lambda: "me")
    claiming, fencing = await database.connect("test"), await database.connect("test")
    await store.register(claiming, "a", "a1", store.Address("h", 1, 2), {})
    beat = (await store.read_view(admin, EMPTY)).workers["a"].beat
    await claiming.execute("BEGIN")
    await claiming.fetch(shard_store._CLAIM_SQL, "a", "a1", list(range(SHARDS)))

    fence = asyncio.create_task(store.fence(fencing, "a", "a1", beat, {}, "test"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not await admin.fetchval(waiting):
            await asyncio.sleep(0.005)

    # The fence ends the claimer's sessions by their name, which this one does not carry: it commits.
    await claiming.execute("COMMIT")
    assert await fence == sorted(EVERY)
    assert await admin.fetchval("SELECT count(*) FROM shard WHERE owner IS NOT NULL") == 0
    for connection in (claiming, fencing, admin):
        connection.terminate()
