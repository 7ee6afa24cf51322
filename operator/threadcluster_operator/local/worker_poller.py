"""The supervisor's poller: asks all workers, and builds the planner's observation from their answers."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Final

import aiohttp

from shard_worker.contract_internal import OwnershipResponse
from threadcluster_operator.local.worker_process import WorkerProcess
from threadcluster_operator.planning.observation import Answers, build_observation, is_member
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.workers.client import SecretMismatch, WorkerApiClient, ask_ownership, client_context

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""Maximum time of a worker's answer: all are asked in one turn, which the slowest must not hold up for long."""


class WorkerPoller:
    """The last answers of the workers, and what follows from them."""

    def __init__(self, session: aiohttp.ClientSession, secret_file: Path) -> None:
        self._session = session
        self._secret_file = secret_file
        self._secret = secret_file.read_text()
        self.answers: Answers = {}
        self.observed: ShardOwnership | None = None

    async def look(self, processes: Iterable[WorkerProcess], emptying: Set[str], *, briefly: bool = False) -> None:
        """Ask every worker; the newest view of them all counts, and each for what it serves itself.

        ``emptying`` are workers that shall own nothing, though no drain of them is in the database.  ``briefly``
        asks one worker alone, that which records plans, and takes the others at their last word: enough to see where
        shards are, not to say that all is well.
        """
        workers = list(processes)
        self._read_secret()
        answers = await self._ask_one(workers) if briefly else None
        if answers is None:
            found = await asyncio.gather(*[self._ask(worker) for worker in workers])
            answers = {worker.name: answer for worker, answer in zip(workers, found, strict=True) if answer is not None}
        self.answers = answers
        for worker in workers:
            worker.joined = worker.joined or is_member(worker.name, self.answers.get(worker.name))
        self.observed = build_observation(
            self.answers,
            running={worker.name for worker in workers if worker.pid is not None},
            starting={worker.name for worker in workers if worker.starting()},
            emptying=emptying,
        )

    def _read_secret(self) -> None:
        """Follow a rotation; a file that is being written, or holds too little, changes nothing."""
        try:
            found = self._secret_file.read_text()
            if found != self._secret:
                client_context(found)
                self._secret = found
        except (OSError, ValueError) as error:
            log.warning("secret not read again", extra={"cause": str(error)})

    async def _ask_one(self, workers: Sequence[WorkerProcess]) -> Answers | None:
        """All answers, one of them new; None when all must be asked."""
        if {worker.name for worker in workers} != set(self.answers):
            return None
        worker = workers[0]  # `workers` gives it the plans, so it knows of the last one
        answer = await self._ask(worker)
        return None if answer is None else {**self.answers, worker.name: answer}

    async def _ask(self, worker: WorkerProcess) -> OwnershipResponse | None:
        address = worker.management_address()
        if address is None:
            return None
        try:
            answered, answer = await ask_ownership(
                self._session, address, client_context(self._secret), within_s=_LOOK_S
            )
        except SecretMismatch as error:
            log.warning("worker not asked", extra={"address": address, "cause": str(error)})
            return None
        if answered:
            worker.answered_at = time.monotonic()
        return answer

    def workers(self, processes: Iterable[WorkerProcess]) -> WorkerApiClient:
        """A client of those that answered last; of all that run when none did."""
        running = [worker for worker in processes if worker.bound() is not None]
        answering = [worker for worker in running if worker.name in self.answers] or running
        addresses = [address for each in answering if (address := each.management_address()) is not None]
        return WorkerApiClient(self._session, addresses, self._secret)
