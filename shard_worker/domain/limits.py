"""How much one thread may hold."""

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds that `decide` keeps; all are settings.  Lowering one refuses growth, it never breaks a history."""

    messages: int = 5_000
    """Live messages in a thread."""
    administrators: int = 100
    members: int = 10_000
