"""Values of the exhaustive search as hashable ones, and their renaming: two states with the same key go on alike.

Times are renamed to times from the present, epochs to distances from the present epoch of their shard, and beats to
distances from the last beat of their worker.  `Epoch` and `Beat` are integers that know what they count, so that the
product's code carries them where it carries epochs and beats.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import Suspect
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.view import OwnershipView, ShardOwner, ShardRow, WorkerRow

_OLD_S: Final = -1.5
"""Longer ago than any wait looks back, see `exhaustive.small_waits`."""
_PLAIN: Final = frozenset({WorkerRow, ShardRow, ShardOwner, Transfer, Suspect})
"""Tuples of nothing but atoms."""


class Epoch(int):
    """An epoch of a shard."""

    shard_id: ShardId

    def __new__(cls, number: int, shard_id: ShardId) -> "Epoch":
        made = super().__new__(cls, number)
        made.shard_id = shard_id
        return made

    def __reduce__(self) -> tuple[type["Epoch"], tuple[int, ShardId]]:
        return Epoch, (int(self), self.shard_id)

    def __add__(self, other: int) -> "Epoch":
        return Epoch(int(self) + other, self.shard_id)


class Beat(int):
    """A beat of a worker."""

    worker: str

    def __new__(cls, number: int, worker: str) -> "Beat":
        made = super().__new__(cls, number)
        made.worker = worker
        return made

    def __reduce__(self) -> tuple[type["Beat"], tuple[int, str]]:
        return Beat, (int(self), self.worker)

    def __add__(self, other: int) -> "Beat":
        return Beat(int(self) + other, self.worker)

    def __ror__(self, other: int) -> "Beat":
        return Beat(other | int(self), self.worker)


class Origin(NamedTuple):
    """The zero of times, epochs and beats."""

    now: float
    epochs: tuple[int, ...]
    beats: tuple[int, ...]
    names: tuple[str, ...]


_ATOMS: Final = frozenset({int, str, bool, type(None), Epoch, Beat})


def coded(value: object) -> object:
    """The value as a hashable one; nothing is renamed yet."""
    kind = type(value)
    if kind in _ATOMS or kind in _PLAIN:
        return value
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, OwnershipView):
        return frozenset(value.workers.values()), frozenset(value.shards.values()), value.plan_version
    if isinstance(value, (tuple, list)):
        return tuple(map(coded, value))
    if isinstance(value, Mapping):
        return frozenset((key, coded(each)) for key, each in value.items())
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value):
        return kind.__name__, tuple(coded(getattr(value, each.name)) for each in fields(value))
    names = getattr(kind, "__slots__", None) or vars(value)
    return kind.__name__, tuple(coded(getattr(value, name)) for name in names)


def renamed(code: object, origin: Origin) -> object:
    """A code with times, epochs and beats relative to the present; times of long ago are alike."""
    kind = type(code)
    if kind is float:
        return max(_OLD_S, round(code - origin.now, 3))  # type: ignore[operator]  # just seen
    if kind is Epoch:
        return "e", int(code) - origin.epochs[code.shard_id]  # type: ignore[call-overload, attr-defined]  # as above
    if kind is Beat:
        return "b", int(code) - origin.beats[origin.names.index(code.worker)]  # type: ignore[call-overload, attr-defined]  # as above
    if isinstance(code, tuple):
        return tuple([renamed(each, origin) for each in code])
    if kind is frozenset:
        return frozenset([renamed(each, origin) for each in code])  # type: ignore[attr-defined]  # as above
    return code


def position_of(steps: Any) -> list[object]:
    """Where a generator is, and its local values, one after another."""
    found: list[object] = []
    while steps is not None and hasattr(steps, "gi_frame") and steps.gi_frame is not None:
        frame = steps.gi_frame
        local = {name: value for name, value in frame.f_locals.items() if name != "self"}
        found += [(frame.f_code.co_name, frame.f_lasti, *local), *local.values()]
        steps = steps.gi_yieldfrom
    return found


class Table:
    """Values by number: equal keys have the same number, and the first of their values is kept for all."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self.values: list[Any] = []

    def __len__(self) -> int:
        return len(self.values)

    def put(self, key: object, value: object = None) -> int:
        """The number of a value."""
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number
