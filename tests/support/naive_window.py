"""The page of messages around an anchor, counted as the contract counts it: what the real ones are compared with."""

from collections.abc import Sequence
from typing import TypeVar

from shard_worker.domain.message_window import Side

T = TypeVar("T")


def naive_window(side: Side, older: Sequence[T], own: Sequence[T], newer: Sequence[T], limit: int) -> list[T]:
    """A page of at most ``limit``; ``own`` is the anchor, or nothing where it is removed."""
    match side:
        case Side.BEFORE:
            return [*older[-limit:]]
        case Side.AFTER:
            return [*newer[:limit]]
        case Side.AROUND:
            before = min((limit - 1) // 2, len(older))
            after = min(limit - len(own) - before, len(newer))
            before = min(limit - len(own) - after, len(older))
            return [*older[len(older) - before :], *own, *newer[:after]]
