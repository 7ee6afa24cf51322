"""Options of the public port; `shard_worker.settings` fills them, and every default keeps the gateway private."""

import os
from dataclasses import dataclass, field

from shard_worker.gateway.http.capacity import Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Options that an operator may choose.  Times are in seconds."""

    request_timeout_s: float = 30.0
    """Maximum time for a request to arrive completely; a slower one gets a 408."""
    keepalive_timeout_s: float = 75.0
    """How long an idle connection is kept; longer than the idle time-out of the usual load balancers (60 s)."""
    budget_s: float = 10.0
    """How long an owner has to answer, moves of its shard included."""
    read_model_answers: bool = False
    """Whether queries about one thread are answered from the read model too, and not by the thread's owner."""
    documentation: bool = True
    """Whether ``/openapi.json`` and ``/docs`` exist."""
    console_url: str = ""
    """The address of the local cluster's console, which ``/`` names; empty: ``/`` does not exist."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API; ``*`` for any.  Empty: CORS is off."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients may call, without a port; empty: any.  See `shard_worker.gateway.http.host_check`."""
    id_salt: bytes = field(default_factory=lambda: os.urandom(16))
    """Key of the ids derived from idempotency keys; the same on every worker of a cluster."""
    cursor_key: bytes = b""
    """Key of the cursors' digests; the same on every worker of a cluster."""
    backlog: int = 1024
    """How many connections the kernel holds for one listening socket."""
    bounds: Bounds = field(default_factory=Bounds)
    """How much the port holds for its clients at once."""
    lane: bool = True
    """Whether plain commands go around aiohttp: see `shard_worker.gateway.public.lane`."""
    idle_grace_s: float = 1.0
    """Time after which a draining port closes an idle connection."""

    def __post_init__(self) -> None:
        for name in ("request_timeout_s", "keepalive_timeout_s", "budget_s", "backlog"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")
        if self.idle_grace_s < 0:
            raise ValueError(f"idle_grace_s must not be negative, not {self.idle_grace_s}")
