"""Values of the exhaustive search as hashable ones: two states with the same key go on alike."""

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from shard_worker.ownership.failure_detector import Suspect
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.view import OwnershipView, ShardOwner, ShardRow, WorkerRow

_OLD_S: Final = -4.0
_WITHOUT_TIMES: Final = frozenset({WorkerRow, ShardRow, ShardOwner, Transfer, Suspect})


class Encoder:
    """Values as hashable ones, times relative to the present; times of long ago are alike."""

    def __init__(self, now: float) -> None:
        self._now = now

    def __call__(self, value: object) -> object:
        kind = type(value)
        if kind is int or kind is str or kind is bool or value is None:
            return value
        if kind in _WITHOUT_TIMES:
            return value
        if isinstance(value, OwnershipView):
            return frozenset(value.workers.values()), frozenset(value.shards.values()), value.plan_version
        if isinstance(value, float):
            return max(_OLD_S, round(value - self._now, 3))
        if isinstance(value, (tuple, list)):
            return tuple(map(self, value))
        if isinstance(value, dict):
            return frozenset((self(key), self(each)) for key, each in value.items())
        if isinstance(value, (set, frozenset)):
            return frozenset(map(self, value))
        if isinstance(value, Enum):
            return value.name
        if is_dataclass(value):
            return kind.__name__, tuple(self(getattr(value, each.name)) for each in fields(value))
        names = getattr(kind, "__slots__", None) or vars(value)
        return kind.__name__, tuple(self(getattr(value, name)) for name in names)


def position_of(steps: Any, code: Encoder) -> object:
    """Where a generator is, with its local values."""
    found = []
    while steps is not None and hasattr(steps, "gi_frame") and steps.gi_frame is not None:
        frame = steps.gi_frame
        local = {name: value for name, value in frame.f_locals.items() if name != "self"}
        found.append((frame.f_code.co_name, frame.f_lasti, code(local)))
        steps = steps.gi_yieldfrom
    return tuple(found)
