"""Which generation of the read model queries are answered from."""

import time
from collections.abc import Callable
from typing import Final

from shard_worker.database.connection import Session

_KEPT_S: Final = 1.0
"""How long the live generation is remembered: the one before is still fed when another becomes live."""
_LIVE: Final = "SELECT generation FROM readmodel_generation WHERE live"


class LiveGeneration:
    """Reads the live generation, at most once a second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._generation = 0
        self._known_until = 0.0

    async def names(self, connection: Session) -> dict[str, object]:
        """The names in a statement that depend on it: ``place``, the schema of its tables, and ``generation``."""
        if self._clock() >= self._known_until:
            self._generation = await connection.fetchval(_LIVE)
            self._known_until = self._clock() + _KEPT_S
        return {"place": f"readmodel_{self._generation:d}", "generation": self._generation}
