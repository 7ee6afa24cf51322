"""The supervisor of a local cluster: it keeps Postgres and the workers running, and the shards where they belong.

It is to processes what the Kubernetes operator is to pods: it observes, asks the pure planner, and acts, a little at a
time, again and again.  The data plane does not need it: workers go on while it is away, and leave in order when it dies.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import msgspec

from shard_worker.contract_internal import (
    NO_CAPABLE_WORKER,
    DatabaseFault,
    MigrationFailure,
    OwnershipResponse,
    Variable,
)
from shard_worker.domain.ids import ShardId
from shard_worker.tasks import BackgroundTasks, FirstFailure, run_until
from threadcluster_operator.api import RebalanceSpec, Resources, ThreadCluster
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.database_choice import DatabaseChoice, without_password
from threadcluster_operator.local.database_report import database_report
from threadcluster_operator.local.durable_file import read_text
from threadcluster_operator.local.errors import UpFailed
from threadcluster_operator.local.log_rotation import rotate
from threadcluster_operator.local.postgres import EmbeddedPostgres, PostgresFailed
from threadcluster_operator.local.rolling_restart import Recycling
from threadcluster_operator.local.worker_poller import WorkerPoller
from threadcluster_operator.local.worker_process import WorkerProcess
from threadcluster_operator.planning.observation import Answers
from threadcluster_operator.planning.planner import NewPlan
from threadcluster_operator.planning.rebalance import RebalanceSession
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerApiClient, WorkerRefused

log = logging.getLogger(__name__)

_TURN_S: Final = 0.2
_TURN_WHILE_MOVING_S: Final = 0.02
"""A few shards are ordered to move at a time, and most take less than this."""
_RESTART_S: Final = 0.3
_ROTATE_S: Final = 1.0
"""Time between two looks at the logs' sizes: a log grows beyond its bound by what its process writes meanwhile."""
_LOCALHOST_NAMES: Final = '["localhost", "127.0.0.1", "::1"]'
"""The hosts under which clients may call local workers: a foreign name that resolves to loopback is a rebinding."""

Say = Callable[[str], None]


class Supervisor:
    """One local cluster, from its Postgres to its workers."""

    def __init__(
        self,
        data_dir: DataDir,
        resources: Resources,
        *,
        port: int,
        database: DatabaseChoice,
        say: Say,
    ) -> None:
        self.data_dir = data_dir
        self.resources = resources
        self.port = port
        self.console_url = ""
        """The address of the console, without its token; set before `up`, empty without a console."""
        self._database_url = database.url if database.url is not None else resources.database_url()
        self._take_over = database.take_over
        self._say = say
        self._postgres: EmbeddedPostgres | None = None
        self.failure = FirstFailure()
        """The first failure of a part that must never end: the control loop, or what keeps a process running."""
        self._tasks = BackgroundTasks(self.failure.report)
        """The control loop and its jobs, and the rotation of logs."""
        self._postgres_tasks = BackgroundTasks(self.failure.report)
        """Keeps Postgres running; ends after the workers, which need Postgres to leave."""
        self._socket: socket.socket | None = None
        self._session: aiohttp.ClientSession | None = None
        self._workers: dict[str, WorkerProcess] = {}
        self._watch: WorkerPoller | None = None
        self.moves = RebalanceSession(resources.cluster.name)
        self._recycling = Recycling(self.moves, say)
        self._unreadable: tuple[ShardId, ...] = ()
        self._displaced = asyncio.Event()
        """Set while the database is another cluster's."""
        self._judged_starts = 0
        """Starts of workers that had failed when the database was last asked whose it is."""
        self._refusal: str | None = None
        """The answer, if it was another cluster's then."""
        self._judging: asyncio.Task[None] | None = None
        self.converged = asyncio.Event()
        self.generation = 1
        """Counts what was asked for: a turn that began before the last of it says nothing of whether it holds."""

    # --- up and down

    async def up(self) -> None:
        """Bring everything up; returns when the cluster serves.  Raises `UpFailed`."""
        self.data_dir.make()
        orphans = await asyncio.to_thread(self.data_dir.end_orphans)
        if orphans:
            self._say(f"ended workers of an earlier supervisor: {', '.join(orphans)}")
        self._bind()
        if self._database_url is None:
            await self._start_postgres()
        else:
            for path in (self.data_dir.dsn_file, self.data_dir.migration_dsn_file):
                self.data_dir.write_private(path, self._database_url)
        await self._migrate()
        self._session = aiohttp.ClientSession()
        self._watch = WorkerPoller(self._session, self.data_dir.secret_file)
        self._tasks.start(self._run(), name="control")
        self._tasks.start(self._rotate_logs(), name="rotate-logs")
        self._say(f"starting {self.resources.cluster.spec.replicas} workers")

    async def await_converged(self) -> None:
        """Return when every wanted worker serves its share.

        Raises `UpFailed` when a part has ended by itself, or another cluster has taken the database before.
        """
        await run_until(self.converged, self._await_refusal(), name="await-refusal")

    async def _await_refusal(self) -> None:
        await self.fail_until(self._displaced)
        raise UpFailed(self._claimed_by_other() or "another cluster has taken the database")

    async def fail_until(self, event: asyncio.Event) -> None:
        """Return when the event is set.  Raises `UpFailed` as soon as a part has ended by itself."""
        failure = await run_until(event, self.failure.wait(), name="await-failure")
        if failure is not None:
            raise UpFailed(f"a part of the supervisor ended: {failure}") from failure.cause

    def accept(self, resources: Resources) -> list[str]:
        """Take a new resource; says what changes.  Raises `UpFailed` for what may not."""
        old, new = self.resources.cluster, resources.cluster
        if new.name != old.name:
            raise UpFailed(f"metadata.name: this data directory is {old.name!r}'s, not {new.name!r}'s")
        if new.spec.shards != old.spec.shards:
            raise UpFailed(f"spec.shards: {old.spec.shards} was given when the database was made, and never changes")
        changes = []
        if new.spec.replicas != old.spec.replicas:
            changes.append(f"replicas {old.spec.replicas} → {new.spec.replicas}")
        if self._environment(new) != self._environment(old):
            until = ", once the mode is not Paused any more" if new.spec.rebalance.mode == "Paused" else ""
            changes.append(f"worker settings: the workers are restarted, one after another{until}")
        if new.spec.rebalance != old.spec.rebalance:
            changes += _rebalance_changes(old.spec.rebalance, new.spec.rebalance)
            self.moves.forget()
        self.resources = resources
        self.generation += 1
        self.converged.clear()
        return changes

    async def down(self) -> None:
        """Stop the workers in order, then Postgres; the data stays."""
        # The control loop first: it would start the workers again.  Also its stops of single workers, which go on below.
        await self._tasks.close()
        if self._workers:
            self._say(f"stopping {len(self._workers)} workers")
        await asyncio.gather(*[worker.stop() for worker in self._workers.values()])
        if self._session is not None:
            await self._session.close()
        await self._postgres_tasks.close()
        if self._postgres is not None:
            self._say("stopping Postgres")
            await self._postgres.stop()
        if self._socket is not None:
            self._socket.close()

    def kill(self) -> None:
        """End every worker at once; nothing acknowledged is lost."""
        for worker in self._workers.values():
            worker.kill()

    # --- the pieces

    def _bind(self) -> None:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", self.port))
        except OSError as error:
            bound.close()
            raise UpFailed(
                f"port {self.port} is taken: stop what listens there, or choose another with --port"
            ) from error
        bound.listen(1024)
        self.port = bound.getsockname()[1]
        self._socket = bound

    async def _start_postgres(self) -> None:
        self._postgres = EmbeddedPostgres(self.data_dir.postgres)
        self._say("starting Postgres")
        try:
            await self._postgres.start()
        except PostgresFailed as error:
            raise UpFailed(str(error)) from error
        self._write_dsns(self._postgres)
        self._postgres_tasks.start(self._keep_postgres(self._postgres), name="keep-postgres")

    def _write_dsns(self, postgres: EmbeddedPostgres) -> None:
        self.data_dir.write_private(self.data_dir.dsn_file, postgres.worker_dsn)
        self.data_dir.write_private(self.data_dir.migration_dsn_file, postgres.dsn)

    async def _keep_postgres(self, postgres: EmbeddedPostgres) -> None:
        while True:
            code = await postgres.wait()
            log.warning("Postgres ended; starting it again", extra={"exit": code, "log": str(postgres.log_path)})
            started = False
            while not started:
                try:
                    await postgres.start()
                    self._write_dsns(postgres)
                    started = True
                except (PostgresFailed, asyncpg.PostgresError, OSError, TimeoutError) as error:
                    log.error("Postgres does not start", extra={"cause": str(error) or repr(error)})
                    await asyncio.sleep(_RESTART_S * 10)

    async def _migrate(self) -> None:
        began = time.monotonic()
        take_over = self._take_over
        if not take_over and self._postgres is not None and self.data_dir.id_is_new:
            # The embedded Postgres lies in the directory, so the holder of its database can only be the directory itself.
            take_over = await self._postgres.holder()
        while True:
            code, printed, failure = await self._run_migration(take_over)
            if code == 0:
                for line in printed.splitlines():
                    self._say(line)
                return
            if failure is None:
                raise UpFailed(f"the migration ended with exit code {code}: {printed}")
            if failure.reason is not DatabaseFault.UNREACHABLE:  # no other fault passes by itself
                raise UpFailed(failure.message)
            self._say(f"waiting for Postgres ({time.monotonic() - began:.0f} s): {failure.message}")
            await asyncio.sleep(2.0)

    async def _run_migration(self, take_over: str) -> tuple[int | None, str, MigrationFailure | None]:
        """Run the migration once: its exit code, what it printed, and why it failed."""
        termination_file = self.data_dir.run / "migration.json"
        termination_file.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "shard_worker.main", "migrate", "--dsn-file", str(self.data_dir.migration_dsn_file)),
            *("--shards", str(self.resources.cluster.spec.shards), "--take-over", take_over),
            *("--termination-file", str(termination_file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(os.environ) | self._claim(self.resources.cluster),
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:  # cancelled: what goes on alone could claim the database later
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return process.returncode, out.decode(errors="replace").strip(), _migration_failure(termination_file)

    async def _rotate_logs(self) -> None:
        """Keep every log within its bound while its process runs."""
        while True:
            paths = [*self.data_dir.logs.glob("*.log")]
            if self._postgres is not None:
                paths.append(self._postgres.log_path)
            for path in paths:
                try:
                    await asyncio.to_thread(rotate, path)
                except OSError as error:
                    log.error("log not rotated", extra={"log": str(path), "cause": repr(error)})
            await asyncio.sleep(_ROTATE_S)

    def _claim(self, cluster: ThreadCluster) -> dict[str, str]:
        """The settings that claim the database: for this directory alone, whatever other one has a cluster of this name."""
        return {
            Variable.CLUSTER: cluster.name,
            Variable.CLUSTER_UID: self.data_dir.id,
            Variable.CLUSTER_NAME: cluster.name,
            Variable.CLUSTER_SITE: self.data_dir.id,
        }

    def _environment(self, cluster: ThreadCluster) -> dict[str, str]:
        passivation = cluster.spec.worker.passivation
        write_format = cluster.spec.worker.write_format
        environment: dict[str, str] = {
            **self._claim(cluster),
            Variable.DSN_FILE: str(self.data_dir.dsn_file),
            Variable.SECRET_FILE: str(self.data_dir.secret_file),
            Variable.SHARDS: str(cluster.spec.shards),
            Variable.HOST: "127.0.0.1",
            Variable.BIND: "127.0.0.1",
            Variable.ALLOWED_HOSTS: _LOCALHOST_NAMES,
            Variable.CONSOLE_URL: self.console_url,
            Variable.PUBLIC_PORT: "0",
            Variable.MANAGEMENT_PORT: "0",
            Variable.PASSIVATION_IDLE_SECONDS: str(passivation.idle_seconds),
            Variable.MAX_RESIDENT_THREADS: str(passivation.max_resident_threads),
            Variable.SNAPSHOT_EVERY_EVENTS: str(cluster.spec.worker.snapshot_every_events),
        }
        if write_format is not None:
            environment[Variable.WRITE_FORMAT] = str(write_format)
        return environment

    # --- the control loop

    async def _run(self) -> None:
        moving = False
        while True:
            briefly, moving = moving, False
            try:
                moving = await self._turn(briefly=briefly)
            except (aiohttp.ClientError, OSError, LookupError, ValueError, TypeError) as error:
                # Answers that contradict each other, as those of workers that join and leave may do, included.
                log.warning("a turn failed; the next will try again", extra={"cause": repr(error)})
            await asyncio.sleep(_TURN_WHILE_MOVING_S if moving else _TURN_S)

    async def _turn(self, *, briefly: bool) -> bool:
        """Observe, plan, act; whether there are more moves to order.  ``briefly``: only to order the next of them."""
        assert self._watch is not None  # made by up
        generation = self.generation
        await self._watch.look(self._workers.values(), self._recycling.emptying(), briefly=briefly)
        spec, observed = self.resources.cluster.spec, self._watch.observed
        steps = self.moves.steps(spec, self._running(), observed)
        for name in steps.run:
            if name not in self._workers:
                assert self._socket is not None  # bound before the control loop starts
                worker = WorkerProcess(
                    name, self.data_dir, self._environment(self.resources.cluster), self._socket.fileno()
                )
                self._workers[name] = worker
                worker.start(self.failure.report)
        if steps.plan is not None:
            await self._set_targets(steps.plan)
        for name in steps.stop:
            worker = self._workers[name]
            if not worker.stopping():
                self._say(f"{name} owns nothing; stopping it")
                self._tasks.spawn(self._stop(worker), name=f"stop-{name}")
        for worker in self._workers.values():
            if observed is None or worker.name not in observed.owners.values():
                worker.kill_if_frozen()
                if observed is not None and worker.name in observed.workers and observed.workers[worker.name].leaving:
                    self._end(worker)
        self.data_dir.remember_workers({worker.name: worker.pid for worker in self._workers.values() if worker.pid})
        self._say_unreadable(steps.unreadable)
        self._judge_failed_starts()
        self._say_displaced(self._claimed_by_other())
        converged = steps.converged and not briefly
        recycling = self._recycling.turn(
            self._workers, self._environment(self.resources.cluster), observed, spec.rebalance.mode, converged=converged
        )
        if converged and not recycling and not self.moves.busy():
            if generation == self.generation:  # else what was seen may be older than what is wanted
                self.converged.set()
        else:
            self.converged.clear()
        return steps.plan is not None or steps.balancing or self.moves.busy()

    def _say_unreadable(self, shards: tuple[ShardId, ...]) -> None:
        """Say it once when no worker reads the journal format of some shards."""
        if shards and shards != self._unreadable:
            self._say(
                f"{NO_CAPABLE_WORKER}: no worker that may get them reads the journal format of {len(shards)} shards, of"
                f" {shards[0]} for one; start workers of the release that wrote it (docs/upgrades.md)"
            )
        self._unreadable = shards

    def _judge_failed_starts(self) -> None:
        """Have the database asked whose it is after a worker failed to start.

        A worker that starts on another cluster's database ends at once, and answers no question.
        """
        failed = sum(worker.failed_starts for worker in self._workers.values())
        if failed != self._judged_starts and (self._judging is None or self._judging.done()):
            # Beside the turn: another migration that is under way is waited for.
            self._judging = self._tasks.spawn(self._judge(failed), name="judge-claim")

    async def _judge(self, failed: int) -> None:
        _, _, failure = await self._run_migration("")  # it displaces no holder
        refused = failure is not None and failure.reason is DatabaseFault.CLAIMED_BY_OTHER
        self._refusal = failure.message if failure is not None and refused else None
        self._judged_starts = failed

    def _say_displaced(self, claimed: str | None) -> None:
        """Say it once when the database has become another cluster's."""
        if claimed is None:
            self._displaced.clear()
        elif not self._displaced.is_set():
            self._say(f"{DatabaseFault.CLAIMED_BY_OTHER}: nothing is served any more; {claimed}")
            self._displaced.set()

    def _claimed_by_other(self) -> str | None:
        """Why the database belongs to another cluster, in a worker's words; where none answers, in the migration's."""
        answers = self._watch.answers.values() if self._watch is not None else ()
        if not answers:
            return self._refusal
        return next((each.claimed_by_other for each in answers if each.claimed_by_other is not None), None)

    def _running(self) -> frozenset[str]:
        return frozenset(self._workers)

    def _end(self, worker: WorkerProcess) -> None:
        """End a worker that has left by itself: until then it only forwards."""
        if not worker.stopping() and worker.recycle():
            self._say(f"{worker.name} has left; restarting it")

    async def _stop(self, worker: WorkerProcess) -> None:
        await worker.stop()
        self._workers.pop(worker.name, None)

    async def _set_targets(self, plan: NewPlan) -> None:
        assert self._watch is not None  # made by up
        try:
            await self._watch.workers(self._workers.values()).set_targets(plan.request())
        except (NoWorkerAvailable, WorkerRefused) as error:
            log.info("plan not taken", extra={"plan": plan.hash, "cause": str(error)})
        else:
            if plan.moves:
                self._say(f"plan {plan.hash}: moving {plan.moves} shards")

    # --- moves by command

    async def plan(self) -> dict[str, Any]:  # JSON
        """The plan that `rebalance` would carry out now.  Raises `MovesRefused`."""
        watch = await self._look_now()
        return self.moves.show(self.resources.cluster.spec, self._running(), watch.observed)

    async def rebalance(self, plan_hash: str | None) -> dict[str, Any]:  # JSON
        """Balance now, or carry out just the plan with this hash.  Raises `MovesRefused`."""
        watch = await self._look_now()
        found = self.moves.begin(self.resources.cluster.spec, self._running(), watch.observed, plan_hash)
        self.generation += 1
        self.converged.clear()
        return found

    def progress(self) -> dict[str, Any]:  # JSON
        """How far the last `rebalance` is."""
        return self.moves.progress(self._watch.observed if self._watch is not None else None)

    async def _look_now(self) -> WorkerPoller:
        """Poll the workers: the last observation may be older than a change that the client made just before."""
        assert self._watch is not None  # made by up, before anyone can ask
        await self._watch.look(self._workers.values(), self._recycling.emptying())
        return self._watch

    # --- what it tells

    async def status(self) -> dict[str, Any]:  # JSON
        """The whole cluster, as it is now."""
        await self._look_now()
        return self.last_status()

    def answers(self) -> Answers:
        """The last answer of each worker."""
        return self._watch.answers if self._watch is not None else {}

    def client(self) -> WorkerApiClient | None:
        """A client of the workers that answer; None before there are any."""
        return self._watch.workers(self._workers.values()) if self._watch is not None else None

    def kill_worker(self, name: str) -> int | None:
        """End the process of a worker with SIGKILL; its id, or None where there is none."""
        worker = self._workers.get(name)
        pid = worker.pid if worker is not None else None
        if worker is not None:
            worker.kill()
        return pid

    def last_status(self) -> dict[str, Any]:  # JSON
        """The whole cluster, as it was seen last."""
        postgres, claimed = self._postgres, self._claimed_by_other()
        return {
            "name": self.resources.cluster.name,
            "ready": self.converged.is_set() and claimed is None,
            "url": f"http://127.0.0.1:{self.port}",
            "replicas": self.resources.cluster.spec.replicas,
            "claimedByOther": claimed,
            "database": database_report(self._watch.answers.values()) if self._watch is not None else None,
            "dataDir": str(self.data_dir.path),
            "supervisor": {"pid": os.getpid()},
            "postgres": {
                "pid": postgres.pid if postgres is not None else None,
                "dsn": without_password(read_text(self.data_dir.migration_dsn_file) or ""),
                "dataDir": str(postgres.data_dir) if postgres is not None else None,
            },
            "workers": [self._worker_status(worker) for _, worker in sorted(self._workers.items())],
        }

    def _worker_status(self, worker: WorkerProcess) -> dict[str, Any]:  # JSON
        answer = self._watch.answers.get(worker.name) if self._watch is not None else None
        bound = worker.bound() or {}
        entry = answer.worker(worker.name) if answer is not None else None
        owned = self._owned_by(worker.name)
        return {
            "name": worker.name,
            "pid": worker.pid,
            "state": _state(worker, answer, owned),
            "incarnation": entry.incarnation if entry is not None else None,
            "address": f"http://127.0.0.1:{bound['publicPort']}" if bound else None,
            "managementAddress": f"http://127.0.0.1:{bound['managementPort']}" if bound else None,
            "shards": owned,
        }

    def _owned_by(self, name: str) -> list[int]:
        observed = self._watch.observed if self._watch is not None else None
        return sorted(shard_id for shard_id, owner in (observed.owners if observed else {}).items() if owner == name)


def _rebalance_changes(old: RebalanceSpec, new: RebalanceSpec) -> list[str]:
    """A line for each field that changes."""
    changes = [
        f"rebalance.{label} {before} → {after}"
        for label, before, after in (
            ("mode", old.mode, new.mode),
            ("strategy", old.strategy, new.strategy),
            ("maxConcurrentMoves", old.max_concurrent_moves, new.max_concurrent_moves),
            ("imbalanceThresholdPercent", old.imbalance_threshold_percent, new.imbalance_threshold_percent),
        )
        if before != after
    ]
    was, will = ({pin.shard: pin.worker for pin in spec.pins} for spec in (old, new))
    changes += [f"shard {shard} is pinned to {will[shard]}" for shard in sorted(will) if was.get(shard) != will[shard]]
    changes += [f"shard {shard} is pinned no more" for shard in sorted(was.keys() - will.keys())]
    return changes


def _migration_failure(path: Path) -> MigrationFailure | None:
    """The termination message of a migration; None for a migration that ended without one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MigrationFailure)
    except (OSError, msgspec.DecodeError):
        return None


def _state(worker: WorkerProcess, answer: OwnershipResponse | None, owned: list[int]) -> str:
    if worker.stopping():
        return "stopping"
    if worker.pid is None:
        return "dead"
    if answer is None:
        return "silent" if worker.bound() is not None else "starting"
    if answer.claimed_by_other is not None:
        return "displaced"
    if not set(owned) <= set(answer.serving):
        return "recovering"
    entry = answer.worker(worker.name)
    if entry is None:
        return "starting"
    return "draining" if entry.draining else "cordoned" if entry.cordoned else "ready"
