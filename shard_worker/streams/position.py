"""Positions in a thread's stream: the sequence number of the newest event that a client has, and that event's epoch.

The epoch tells apart two events that had one number: after a fail-over that lost a tail the journal grows again, under
another epoch.
"""

import re
from typing import Final, NamedTuple

GREATEST: Final = 2**63 - 1
_POSITION: Final = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.(0|[1-9][0-9]{0,18}))?")


class ThreadPosition(NamedTuple):
    """A position as a client gave it."""

    sequence_nr: int
    epoch: int | None
    """None where the client gave the number alone, and at 0, which is no event."""


def read_position(text: str) -> ThreadPosition | None:
    """The position ``sequenceNr.epoch`` or ``sequenceNr``; None for anything else."""
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    sequence_nr, epoch = int(match[1]), None if match[2] is None else int(match[2])
    if sequence_nr > GREATEST or (epoch or 0) > GREATEST:
        return None
    return ThreadPosition(sequence_nr, epoch if sequence_nr else None)


def position_text(sequence_nr: int, epoch: int | None) -> str:
    """A position as clients see it; without an epoch that is known (None or 0) the number alone."""
    return f"{sequence_nr}.{epoch}" if epoch and sequence_nr else str(sequence_nr)
