"""The one thing the gateway needs from the rest of the worker."""

from typing import Protocol

from shard_worker.contract import Answer, Request


class ThreadService(Protocol):
    """Routes a request to the owner of its thread, here or on another worker."""

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """The owner's answer within ``budget_s`` seconds; raises for nothing that is foreseen."""
        ...
