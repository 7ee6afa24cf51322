"""The client of `/internal/v1`, which any live worker of a cluster answers alike (docs/internal-api.md).

It knows addresses, not where they come from: processes here, pods elsewhere.  Whatever is asked may be asked again, so a
worker that does not answer only means that the next one is asked.  Both sides prove by a certificate that they hold the
cluster's secret (`shard_worker.contract_tls`); the secret itself is never sent.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from shard_worker.contract_tls import INTERNAL_NAME, PurposeContext, internal_client_context, parse_secrets
from shard_worker.domain.ids import ShardId

_ANSWER_S: Final = 6.0
"""How long a worker may take; it gives Postgres 5 s."""
_LOOK_S: Final = 2.0

Document = dict[str, Any]  # a JSON object
Targets = Iterable[Mapping[str, object]]
"""What a plan wants, as `target_in` makes it."""


class NoWorkerAvailable(Exception):
    """No worker has an answer now; whether what was asked was done is not known."""


class WorkerRefused(Exception):
    """A worker's answer is no, and another's would be the same."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def client_context(secret: str) -> PurposeContext:
    """What proves us to the workers, made from the content of the cluster's secret.  Raises `ValueError`."""
    return internal_client_context(parse_secrets(secret.encode()))


class WorkerApiClient:
    """The workers at some addresses (``https://host:port`` of their management ports), by the cluster's secret.

    The constructor raises `ValueError` for a secret that no worker would accept.
    """

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str], secret: str) -> None:
        self._session = session
        self._addresses = addresses
        self._context = client_context(secret)

    async def ownership(self) -> Document:
        """Who owns what: the newest of all answers.  Raises `NoWorkerAvailable`."""
        found = newest((await self.answers()).values())
        if found is None:
            raise NoWorkerAvailable(_nobody(self._addresses))
        return found

    async def answers(self) -> dict[str, Document]:
        """Who owns what, as each worker that answers says, by the worker."""
        asked = [self._ask(address, "GET", "ownership", None, _LOOK_S) for address in self._addresses]
        found = [answer for status, answer in filter(None, await asyncio.gather(*asked)) if status == 200]
        return {str(answer["answeredBy"]): answer for answer in found}

    async def set_targets(self, version: int, plan_hash: str, targets: Targets) -> int:
        """Record (shard, target, reason)s of a plan made from plan ``version``; its own version.

        Raises `WorkerRefused` with code ``plan-stale`` when another plan came first, and `NoWorkerAvailable`.
        """
        body = {"planVersion": version, "hash": plan_hash, "targets": list(targets)}
        return int((await self._any("PUT", "targets", body))["planVersion"])

    async def cordon(self, worker: str, verb: str) -> None:
        """``cordon``, ``uncordon`` or ``drain`` a worker.  Raises `WorkerRefused` for an unknown name, `NoWorkerAvailable`."""
        await self._any("POST", f"workers/{quote(worker, safe='')}/{verb}", None)

    async def history(self, limit: int, shard: int | None) -> list[Document]:
        """The last changes of owner, newest first.  Raises `WorkerRefused` for an unknown shard, `NoWorkerAvailable`."""
        where = "" if shard is None else f"&shard={shard}"
        changes: list[Document] = (await self._any("GET", f"history?limit={limit}{where}", None))["changes"]
        return changes

    async def _any(self, method: str, path: str, body: Document | None) -> Document:
        """The first worker's answer that is one."""
        for address in self._addresses:
            answered = await self._ask(address, method, path, body, _ANSWER_S)
            if answered is None or answered[0] >= 500:
                continue
            status, answer = answered
            if status == 200:
                return answer
            raise WorkerRefused(str(answer.get("code")), str(answer.get("detail", f"status {status}")))
        raise NoWorkerAvailable(_nobody(self._addresses))

    async def _ask(
        self, address: str, method: str, path: str, body: Document | None, within_s: float
    ) -> tuple[int, Document] | None:
        """Status and JSON, or None when the worker has no answer."""
        try:
            async with self._session.request(
                method,
                f"{address}/internal/v1/{path}",
                json=body,
                ssl=self._context,
                server_hostname=INTERNAL_NAME,
                timeout=aiohttp.ClientTimeout(total=within_s),
            ) as response:
                found = msgspec.json.decode(await response.read())
                return (response.status, found) if isinstance(found, dict) else None
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            return None


def newest(answers: Iterable[Document]) -> Document | None:
    """Of several answers to `GET ownership`, the one that was read last, without those that know of no shard yet.

    Plan version, epochs and beats only ever grow.
    """
    return max((answer for answer in answers if answer["shards"]), key=_age, default=None)


def _age(answer: Document) -> tuple[int, int, int]:
    return (
        answer["planVersion"],
        sum(row["epoch"] for row in answer["shards"]),
        sum(row["beat"] for row in answer["workers"]),
    )


def _nobody(addresses: Sequence[str]) -> str:
    return f"none of {len(addresses)} workers answers" if addresses else "no worker runs"


def target_document(shard: ShardId, target: str | None, reason: str) -> Document:
    """One element of what `WorkerApiClient.set_targets` takes."""
    return {"shard": shard, "target": target, "reason": reason}
