"""The form of the hostile corpus: one named input for each thing that a client may do to a worker.

An input is raw bytes, sent on one connection or on several at once, or an async function that plays the client itself.
The modules of this folder list theirs in a tuple; `corpus` joins the tuples and refuses a name that is used twice.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum


class Port(Enum):
    """Which of a worker's two ports an input attacks."""

    PUBLIC = "public"
    MANAGEMENT = "management"


Act = Callable[[str, int], Awaitable[None]]
"""A client of its own: gets host and port, and ends within seconds whatever the worker does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileInput:
    """One input.  Exactly one of ``raw`` and ``act`` is set."""

    name: str
    """Unique, lower case, words joined by hyphens: what a failure is reported by."""
    port: Port = Port.PUBLIC
    raw: Callable[[], bytes] | None = None
    """Makes the bytes of one connection.  The client sends them, reads what comes and hangs up; no answer is required."""
    act: Act | None = None
    connections: int = 1
    """How many connections send ``raw`` at the same time."""

    def __post_init__(self) -> None:
        if (self.raw is None) == (self.act is None):
            raise ValueError(f"{self.name}: exactly one of raw and act must be set")


def of_bytes(makers: dict[str, Callable[[], bytes]], port: Port = Port.PUBLIC) -> tuple[HostileInput, ...]:
    """Inputs from a table of names and makers of raw bytes."""
    return tuple(HostileInput(name=name, port=port, raw=maker) for name, maker in makers.items())


def corpus(*parts: Iterable[HostileInput]) -> tuple[HostileInput, ...]:
    """All inputs of the parts, in order.  Raises ValueError when a name is used twice."""
    by_name: dict[str, HostileInput] = {}
    for part in parts:
        for given in part:
            if given.name in by_name:
                raise ValueError(f"two hostile inputs are called {given.name}")
            by_name[given.name] = given
    return tuple(by_name.values())
