"""A service whose threads are all on other workers."""

from shard_worker.contract import Request
from shard_worker.domain.ids import ThreadId
from shard_worker.gateway.public.service import AnswerSlot


class Elsewhere:
    """The part of a `ThreadService` that such a service has not: a test's class has the other."""

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """Nothing is here."""
        del request, thread_id, slot, budget_s
        return False
