"""A service whose threads are all on other workers."""

from shard_worker.contract import CommandRequest
from shard_worker.gateway.public.service import AnswerSlot


class Elsewhere:
    """The part of a `ThreadService` that such a service has not: a test's class has the other."""

    def ask_here(self, request: CommandRequest, slot: AnswerSlot, budget_s: float) -> bool:
        """Nothing is here."""
        del request, slot, budget_s
        return False
