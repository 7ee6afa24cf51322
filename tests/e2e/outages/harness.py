"""A Postgres of its own and one real worker process, with clients that remember every answer.

The worker logs in by TLS (``verify-full``) as an ordinary role, from a DSN file, as in production; the embedded server
is built without TLS, so a front speaks it.  Nothing here restarts the worker: every outage must heal by itself.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import psutil
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate
from shard_worker.database.roles import WORKER_ROLE
from tests.support.authority import Authority
from tests.support.journal_check import assert_journal_valid
from tests.support.load.client import Attempt, Outcome, classify
from tests.support.load.target import parse_target
from tests.support.load.wire import Connection, Lost, request_bytes
from tests.support.polling import eventually
from tests.support.tls_proxy import TlsFront
from tests.support.worker_processes import SECRET, WorkerProcess

DATABASE: Final = "outages"
BUDGET_S: Final = 1.0
_SLACK_S: Final = 1.0
"""From the write of a request to the moment at which a worker on a busy machine has read it."""
_ANSWER_S: Final = 10.0
_CLIENTS: Final = 8
_THREADS: Final = 16
_PAUSE_S: Final = 0.05
_WAVE: Final = 60
_WAVE_BYTES: Final = 100_000
PENDING_BYTES: Final = 4 << 20
_MARKS_SQL: Final = """
SELECT substring(convert_from(payload, 'UTF8') FROM 'mark [a-z0-9 ]+#[0-9]+') AS mark, extract(epoch FROM written_at) AS at
  FROM journal WHERE convert_from(substring(payload FOR 200), 'UTF8') LIKE '%mark ' || $1 || '#%'
"""


@dataclass
class Sent:
    """One post: when it left, and what came of it."""

    mark: str
    at: float
    attempt: Attempt


@dataclass
class Figure:
    """One line of the table."""

    outage: str
    lasted_s: float
    answers: Counter[str] = field(default_factory=Counter)
    unknown_stored: int = 0
    late: int = 0
    """Rows stored after the end of their budgets: they were at the server then, and their clients know of nothing."""
    rss_before_mb: float = 0.0
    rss_most_mb: float = 0.0
    healed_s: float = 0.0
    findings: list[str] = field(default_factory=list)

    def row(self) -> str:
        """As a row of the table in docs/faults.md."""
        answers = self.answers
        return (
            f"| {self.outage} | {self.lasted_s:.1f} | {answers['accepted']} | {answers['not-now'] + answers['refused']}"
            f" | {answers['unknown']} ({self.unknown_stored}) | {self.late} | {self.rss_before_mb:.0f} →"
            f" {self.rss_most_mb:.0f} | {self.healed_s:.1f} |"
        )


class Harness:
    """The server, the worker, and what is done to both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = EmbeddedPostgres(folder / "postgres")
        self.authority = Authority()
        self.login, self.password = "chat", "first"
        self.dsn_file = folder / "dsn"
        self._shared = socket.create_server(("127.0.0.1", 0))
        ca = folder / "ca.pem"
        ca.write_bytes(self.authority.certificate)
        secret = folder / "secret"
        secret.write_text(SECRET)
        self.worker = WorkerProcess(
            "w0",
            folder,
            {
                "SHARD_WORKER_CLUSTER": "test",
                "SHARD_WORKER_DSN_FILE": str(self.dsn_file),
                "SHARD_WORKER_DATABASE_TLS": "verify-full",
                "SHARD_WORKER_DATABASE_CA_FILE": str(ca),
                "SHARD_WORKER_SECRET_FILE": str(secret),
                "SHARD_WORKER_PUBLIC_PORT": "0",
                "SHARD_WORKER_MANAGEMENT_PORT": "0",
                "SHARD_WORKER_COMMAND_BUDGET_SECONDS": str(BUDGET_S),
                "SHARD_WORKER_MAX_PENDING_BYTES": str(PENDING_BYTES),
                "SHARD_WORKER_APPEND_WATCHDOG_SECONDS": "0.7",
            },
            self._shared.fileno(),
        )
        self._front: TlsFront | None = None
        self.threads: list[str] = []
        self._numbers = 0

    # --- the server

    @property
    def front(self) -> TlsFront:
        """The proxy that speaks TLS for the server."""
        assert self._front is not None  # started
        return self._front

    @property
    def cluster(self) -> Path:
        """The server's data directory."""
        return self.server.data_dir / "cluster"

    async def admin(self, database: str = DATABASE) -> asyncpg.Connection:
        """A superuser's session."""
        mine = {"statement_timeout": "0", "default_transaction_read_only": "off", "synchronous_commit": "local"}
        return await asyncpg.connect(self.server.dsn_of(database), timeout=20, server_settings=mine)

    async def execute(self, *statements: str) -> None:
        """Run statements as the superuser, each by itself."""
        connection = await self.admin()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def reload(self, setting: str, value: str) -> None:
        """Change a setting of the running server; an empty value resets it."""
        change = f"ALTER SYSTEM SET {setting} = {value}" if value else f"ALTER SYSTEM RESET {setting}"
        await self.execute(change, "SELECT pg_reload_conf()")

    async def end_sessions(self) -> None:
        """End the worker's sessions."""
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename <> current_user AND backend_type = 'client backend'"
        )

    def processes(self) -> list[psutil.Process]:
        """All processes of the server."""
        assert self.server.pid is not None
        postmaster = psutil.Process(self.server.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def show(self, *, expired: bool) -> None:
        """Show a certificate that is good, or one that ended yesterday, to every new session."""
        certificate = self.folder / "server.pem"
        certificate.write_bytes(self.authority.leaf(expired=expired))
        self.front.show(certificate, self.folder / "server.key")

    def write_dsn(self) -> None:
        """Name the present login in the worker's DSN file, atomically."""
        fresh = self.dsn_file.with_suffix(".new")
        fresh.write_text(
            f"postgresql://{self.login}:{self.password}@127.0.0.1:{self.front.port}/{DATABASE}",
        )
        fresh.replace(self.dsn_file)

    async def start(self) -> None:
        """Start the server and the worker, and create the threads."""
        await self.server.start()
        connection = await self.admin("postgres")
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()
        await migrate(self.server.dsn_of(DATABASE), cluster_id="test", shards=8, say=lambda _: None)
        await self.execute(
            f"CREATE ROLE chat LOGIN PASSWORD 'first' IN ROLE {WORKER_ROLE}",
            f"CREATE ROLE chat2 LOGIN PASSWORD 'second' IN ROLE {WORKER_ROLE}",
            "ALTER SYSTEM SET max_connections = 20",
            "ALTER SYSTEM SET autovacuum = off",
        )
        await self.server.stop()
        await self.server.start()
        certificate, key = self.folder / "server.pem", self.folder / "server.key"
        certificate.write_bytes(self.authority.leaf())
        key.write_bytes(self.authority.key)
        self._front = await TlsFront(self.server.port, certificate=certificate, key=key).__aenter__()
        self.write_dsn()
        await self.worker.start()
        for number in range(_THREADS):
            me = _account(number)
            body = {"accountId": me, "title": "t", "administratorIds": [me], "memberIds": []}
            _, attempt = await self.command("/v1/threads/create", body)
            while attempt.outcome is not Outcome.ACCEPTED:
                assert attempt.outcome is not Outcome.REFUSED, attempt
                await asyncio.sleep(_PAUSE_S)
                _, attempt = await self.command("/v1/threads/create", body)
            self.threads.append(attempt.document["threadId"])

    async def stop(self) -> None:
        """Prove the journal, and end everything."""
        try:
            if self.threads:
                await assert_journal_valid(self.server.dsn_of(DATABASE))
        finally:
            if self.worker.alive:
                await self.worker.kill()
            self._shared.close()
            if self._front is not None:
                await eventually(
                    lambda: self._front is None or self._front.idle, what="the links of the worker have ended"
                )
                await self._front.__aexit__()
            await self.server.stop()

    # --- the clients

    async def command(self, path: str, body: Mapping[str, object]) -> tuple[float, Attempt]:
        """One command on a connection of its own: when it was written (epoch), and what came of it."""
        target = parse_target(self.worker.url)
        request = request_bytes("POST", path, target.authority, msgspec.json.encode(body))
        at = time.time()
        try:
            connection = await Connection.open(target, _ANSWER_S)
            try:
                at = time.time()
                return at, classify(await connection.ask(request, _ANSWER_S))
            finally:
                connection.close()
        except Lost as lost:
            return at, Attempt(Outcome.UNKNOWN if lost.sent else Outcome.NOT_SENT, None, str(lost), {})

    async def post(self, outage: str, size: int = 0) -> Sent:
        """One post that says which it is."""
        number = self._numbers
        self._numbers += 1
        mark = f"mark {outage}#{number}"
        thread = number % _THREADS
        body = {"accountId": _account(thread), "messages": [{"text": mark + "." + "x" * size}]}
        at, attempt = await self.command(f"/v1/threads/{self.threads[thread]}/messages/add", body)
        return Sent(mark, at, attempt)

    @asynccontextmanager
    async def load(self, outage: str) -> AsyncIterator[list[Sent]]:
        """Clients that post for as long as the block runs; all answers are there when it has ended."""
        sent: list[Sent] = []
        stop = asyncio.Event()

        async def one() -> None:
            while not stop.is_set():
                sent.append(await self.post(outage))
                await asyncio.sleep(_PAUSE_S)

        clients = [asyncio.create_task(one()) for _ in range(_CLIENTS)]
        try:
            yield sent
        finally:
            stop.set()
            await asyncio.gather(*clients)

    async def wave(self, outage: str) -> list[Sent]:
        """Large posts, all at once."""
        return await asyncio.gather(*[self.post(outage, _WAVE_BYTES) for _ in range(_WAVE)])

    def rss_mb(self) -> float:
        """The worker's resident memory."""
        return float(psutil.Process(self.worker.pid).memory_info().rss) / 1e6

    async def judge(self, figure: Figure, sent: list[Sent]) -> None:
        """Compare what clients were answered with what the journal holds."""
        connection = await self.admin()
        stored: Counter[str] = Counter()
        written: dict[str, float] = {}
        for row in await connection.fetch(_MARKS_SQL, figure.outage):
            stored[row["mark"]] += 1
            written[row["mark"]] = float(row["at"])
        await connection.close()
        for each in sent:
            outcome, times = each.attempt.outcome, stored.pop(each.mark, 0)
            figure.answers[outcome.value] += 1
            expected = {Outcome.ACCEPTED: (1,), Outcome.UNKNOWN: (0, 1)}.get(outcome, (0,))
            if times not in expected:
                figure.findings.append(f"{each.mark}: {outcome.value} {each.attempt.code}, stored {times} times")
            figure.unknown_stored += outcome is Outcome.UNKNOWN and times > 0
            if times and written[each.mark] > each.at + BUDGET_S + _SLACK_S:
                figure.late += 1
                if outcome is not Outcome.UNKNOWN:
                    figure.findings.append(f"{each.mark}: stored after its budget, answered {outcome.value}")
        if stored:
            figure.findings.append(f"in the journal and never sent: {sorted(stored)[:5]}")


def _account(number: int) -> str:
    return f"01ARZ3NDEKTSV4RRFFQ69G5F{number:02d}"


@asynccontextmanager
async def harness_in(folder: Path) -> AsyncIterator[Harness]:
    """A harness, started; proven and ended afterwards."""
    harness = Harness(folder)
    try:
        await harness.start()
        yield harness
    finally:
        await harness.stop()


async def accepted_again(sent: list[Sent], after: float, *, within_s: float) -> float:
    """Seconds from ``after`` (epoch) until a post that was sent since was stored."""
    await eventually(
        lambda: any(each.at >= after and each.attempt.outcome is Outcome.ACCEPTED for each in reversed(sent[-200:])),
        within_s=within_s,
        what="a post is stored after the outage",
    )
    return time.time() - after
