"""The client of `/internal/v1`, which any live worker of a cluster answers alike (docs/internal-api.md).

The client knows addresses, not where they come from: processes here, pods elsewhere.  Every request may be sent again, so
after a worker that does not answer the client asks the next one.  Both sides prove by a certificate that they hold the
cluster's secret (`shard_worker.contract_tls`); the secret itself is never sent.  Answers are decoded here and nowhere else
in the operator (`shard_worker.contract_internal`).
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from shard_worker.contract_internal import (
    DATABASE_CLAIMED_BY_OTHER,
    INTERNAL_PREFIX,
    CordonResponse,
    CordonVerb,
    HistoryEntry,
    HistoryResponse,
    OwnershipDigest,
    OwnershipResponse,
    PinRequest,
    PinResponse,
    ProblemResponse,
    TargetsRequest,
    TargetsResponse,
    ThreadResponse,
    ThreadStateResponse,
)
from shard_worker.contract_tls import INTERNAL_NAME, PurposeContext, internal_client_context, parse_secrets
from threadcluster_operator.planning.observation import newest
from threadcluster_operator.workers.protocol import PolledWorkers, WorkersClient

log = logging.getLogger(__name__)

_ANSWER_S: Final = 6.0
"""Maximum time of a worker's answer; longer than the 5 s that the worker gives Postgres."""
_LOOK_S: Final = 2.0
"""Maximum time of an answer that needs no Postgres."""

_CONNECT_S: Final = 0.5
"""Maximum time in which a worker's port accepts a connection: a pod whose packets are lost must not hold a socket for long."""
ANSWER_MOST: Final = 2 << 20
"""Maximum bytes of an answer; the ownership of 4,096 shards and 256 workers takes 1.9 MiB with the longest names."""
_SHARDS_MOST: Final = 4_096
_WORKERS_MOST: Final = 1_024
"""Names that have ever been a worker; a ThreadCluster has at most 256 at a time."""
_CHUNK: Final = 1 << 16

T = TypeVar("T")


class NoWorkerAvailable(Exception):
    """No worker has an answer now; whether a change was recorded is not known."""


class SecretMismatch(Exception):
    """A worker proves itself by another secret than the client has."""


class InvalidAnswer(Exception):
    """A worker answers, and not as a worker of a release that fits; the message says what is wrong with the answer."""


class WorkerRefused(Exception):
    """A worker refuses the request, and any other worker would refuse it too."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Reply(NamedTuple):
    """An HTTP answer of a worker."""

    address: str
    status: int
    body: bytes
    too_long: bool = False
    """The body is longer than `ANSWER_MOST`, and was not read."""

    @property
    def fault(self) -> str:
        """The fault of an answer that is not taken."""
        if self.too_long:
            return f"it is longer than {ANSWER_MOST} bytes"
        return f"its status is {self.status}" if self.status != HTTPStatus.OK else "it has another form"

    def decoded(self, form: type[T]) -> T | None:
        """The body as ``form``; None for a body of another form, which is logged: the releases may not fit together."""
        if self.too_long:
            return None
        try:
            return msgspec.json.decode(self.body, type=form)
        except msgspec.DecodeError as error:
            log.warning("answer of a worker not decoded", extra={"address": self.address, "cause": str(error)})
            return None


def client_context(secret: str) -> PurposeContext:
    """The TLS context that proves the operator to the workers, made from the cluster's secret.  Raises `ValueError`."""
    return internal_client_context(parse_secrets(secret.encode()))


async def ask(
    session: aiohttp.ClientSession,
    address: str,
    method: str,
    path: str,
    context: ssl.SSLContext,
    *,
    body: msgspec.Struct | None = None,
    within_s: float,
) -> Reply | None:
    """The answer of the worker at ``https://host:port`` to a request below `INTERNAL_PREFIX`; None without an answer.

    Raises `SecretMismatch` when the worker has another secret.
    """
    headers = {"Accept-Encoding": "identity"} | ({} if body is None else {"Content-Type": "application/json"})
    try:
        async with session.request(
            method,
            f"{address}{INTERNAL_PREFIX}/{path}",
            data=None if body is None else msgspec.json.encode(body),
            headers=headers,
            ssl=context,
            server_hostname=INTERNAL_NAME,
            timeout=aiohttp.ClientTimeout(total=within_s, sock_connect=_CONNECT_S),
            # The image in a pod is a tenant's: its answer neither leads the operator to another address nor unfolds in
            # its memory.
            allow_redirects=False,
            auto_decompress=False,
        ) as response:
            found = await _bounded(response)
            return Reply(address, response.status, found or b"", too_long=found is None)
    except aiohttp.ClientConnectorCertificateError as error:
        raise SecretMismatch(f"{address} shows a certificate of another secret") from error
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None for one that is longer than `ANSWER_MOST`: the rest is not read, and the connection is closed."""
    found = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        found += chunk
        if len(found) > ANSWER_MOST:
            log.warning(
                "answer of a worker is too long", extra={"address": str(response.url.origin()), "most": ANSWER_MOST}
            )
            response.close()
            return None
    return bytes(found)


async def ask_ownership(
    session: aiohttp.ClientSession, address: str, context: ssl.SSLContext, *, within_s: float = _LOOK_S
) -> tuple[bool, OwnershipResponse | None]:
    """Whether the worker at an address answers, and its answer to ``GET ownership``, if that is one.

    Raises `SecretMismatch`.
    """
    reply = await ask(session, address, "GET", "ownership", context, within_s=within_s)
    if reply is None:
        return False, None
    return True, _ownership_in(reply)


def _ownership_in(reply: Reply) -> OwnershipResponse | None:
    """The ownership in an answer, if the answer is one."""
    found = reply.decoded(OwnershipResponse) if reply.status == 200 else None
    if found is None:
        return None
    shards = len(found.shards)
    if (
        shards > _SHARDS_MOST
        or len(found.workers) > _WORKERS_MOST
        or {each.id for each in found.shards} != {*range(shards)}
    ):
        log.warning("answer of a worker is no ownership", extra={"address": reply.address, "shards": shards})
        return None
    return found


def _taken(reply: Reply, found: T | None) -> T:
    """The content of an answer.  Raises `InvalidAnswer`."""
    if found is None:
        raise InvalidAnswer(reply.fault)
    return found


class WorkerApiClient(WorkersClient):
    """The workers at some addresses (``https://host:port`` of their management ports), by the cluster's secret.

    The constructor raises `ValueError` for a secret that no worker would accept.
    """

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str], secret: str) -> None:
        self._session = session
        self._addresses = addresses
        self._context = client_context(secret)
        self._mismatches: set[str] = set()
        """The addresses whose last answer was by another secret."""

    def mismatched(self) -> bool:
        """Whether a worker that was asked last proved itself by another secret than ours."""
        return bool(self._mismatches)

    async def ownership(self) -> OwnershipResponse:
        """The newest answer of all workers.  Raises `NoWorkerAvailable`, and `WorkerRefused` when the database is another
        cluster's: then the answers are about that cluster.
        """
        answers = (await self.answers()).values()
        found = newest(answer for answer in answers if answer.claimed_by_other is None)
        if found is not None:
            return found
        for answer in answers:
            if answer.claimed_by_other is not None:
                raise WorkerRefused(DATABASE_CLAIMED_BY_OTHER, answer.claimed_by_other)
        raise NoWorkerAvailable(self._no_answer())

    async def answers(self) -> dict[str, OwnershipResponse]:
        """The answer of each worker that answers, by the worker's name."""
        found = await asyncio.gather(*[self._answer_of(address) for address in self._addresses])
        return {answer.answered_by: answer for answer in found if answer is not None}

    async def _answer_of(self, address: str) -> OwnershipResponse | None:
        try:
            _, answer = await ask_ownership(self._session, address, self._context)
        except SecretMismatch as error:
            self._note_mismatch(address, error)
            return None
        self._mismatches.discard(address)
        return answer

    def _note_mismatch(self, address: str, error: SecretMismatch) -> None:
        """A worker with another secret is one that does not answer, and is remembered."""
        self._mismatches.add(address)
        log.warning("worker not asked", extra={"address": address, "cause": str(error)})

    async def set_targets(self, plan: TargetsRequest) -> int:
        """Record a plan; its version.

        Raises `WorkerRefused` with code `PLAN_STALE` when another plan came first, and `NoWorkerAvailable`.
        """
        return (await self._any("PUT", "targets", TargetsResponse, plan)).plan_version

    async def cordon(self, worker: str, verb: CordonVerb) -> None:
        """Cordon, uncordon or drain a worker.  Raises `WorkerRefused` for an unknown name, `NoWorkerAvailable`."""
        await self._any("POST", f"workers/{quote(worker, safe='')}/{verb}", CordonResponse)

    async def pin(self, shard: int, worker: str | None) -> bool:
        """Pin a shard to a worker, or with None to none; whether it was otherwise before.

        Raises `WorkerRefused` for an unknown shard, `NoWorkerAvailable`.
        """
        return (await self._any("PUT", "pins", PinResponse, PinRequest(shard, worker))).changed

    async def history(self, limit: int, shard: int | None) -> tuple[HistoryEntry, ...]:
        """The last changes of owner, newest first.  Raises `WorkerRefused` for an unknown shard, `NoWorkerAvailable`."""
        where = "" if shard is None else f"&shard={shard}"
        return (await self._any("GET", f"history?limit={limit}{where}", HistoryResponse)).changes

    async def thread(self, thread_id: str, before: int | None) -> ThreadResponse:
        """A thread's owner and its last events, or the last ones before the event ``before``.

        Raises `WorkerRefused` for an invalid id, `NoWorkerAvailable`.
        """
        where = "" if before is None else f"?before={before}"
        return await self._any("GET", f"threads/{quote(thread_id, safe='')}{where}", ThreadResponse)

    async def thread_state(self, thread_id: str, at: int | None) -> ThreadStateResponse:
        """A thread's state after the event ``at``, or now.  Raises as `thread` does."""
        where = "" if at is None else f"?at={at}"
        return await self._any("GET", f"threads/{quote(thread_id, safe='')}/state{where}", ThreadStateResponse)

    async def _any(self, method: str, path: str, form: type[T], body: msgspec.Struct | None = None) -> T:
        """The answer of the first worker that gives one."""
        for address in self._addresses:
            try:
                reply = await ask(self._session, address, method, path, self._context, body=body, within_s=_ANSWER_S)
            except SecretMismatch as error:
                self._note_mismatch(address, error)
                continue
            self._mismatches.discard(address)
            if reply is None or reply.status >= 500:
                continue
            if reply.status == 200:
                answer = reply.decoded(form)
                if answer is not None:
                    return answer
            elif (problem := reply.decoded(ProblemResponse)) is not None:
                raise WorkerRefused(problem.code, problem.detail or f"status {reply.status}")
        raise NoWorkerAvailable(self._no_answer())

    def _no_answer(self) -> str:
        if self._mismatches:
            return "the workers hold another secret"
        return f"none of {len(self._addresses)} workers answers" if self._addresses else "no worker runs"


class NamedWorkers(PolledWorkers):
    """The workers at some addresses, by name; see `WorkerApiClient`."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Mapping[str, str], secret: str) -> None:
        self._session = session
        self._addresses = addresses
        self._context = client_context(secret)
        self._any = WorkerApiClient(session, tuple(addresses.values()), secret)

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        """See `PolledWorkers`."""
        reply = await self._get(worker, "ownership/digest")
        if reply is None:
            return None
        if reply.status == HTTPStatus.NOT_FOUND:
            return await self.ownership_of(worker)
        return _taken(reply, reply.decoded(OwnershipDigest) if reply.status == HTTPStatus.OK else None)

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        """See `PolledWorkers`."""
        reply = await self._get(worker, "ownership")
        return None if reply is None else _taken(reply, _ownership_in(reply))

    async def set_targets(self, plan: TargetsRequest) -> int:
        """See `WorkerApiClient`."""
        return await self._any.set_targets(plan)

    async def _get(self, worker: str, path: str) -> Reply | None:
        return await ask(self._session, self._addresses[worker], "GET", path, self._context, within_s=_LOOK_S)
