"""The page of messages before, after or around a message: the order in which its messages are taken.

The messages of a thread are numbered by their order, from 0.  A page takes the messages next to its anchor first, until it has
as many as it may, or until the next one would make its answer too long.  Whatever number is taken, a page is therefore an
unbroken run, and messages that are left out are those farthest from the anchor.
"""

from collections.abc import Iterator
from enum import StrEnum


class Side(StrEnum):
    """The messages of a page, seen from its anchor; also the name of the query parameter."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"


def taking_order(side: Side, *, below: int, above: int, count: int) -> Iterator[int]:
    """Numbers of the messages of a page in the order of taking, as long as there are any.

    ``below`` is how many of the ``count`` live messages are before the anchor, ``above`` how many are before it or are the
    anchor itself: they are equal when the anchor was removed.

    Around an anchor, the anchor is the first; then one after it and one before it in turns.  The first ``limit`` numbers are thus
    the anchor, ⌊(limit - 1) / 2⌋ before it and the rest after it, and what one side lacks goes to the other.  The place of a
    removed anchor goes to the message after it.
    """
    if side is Side.BEFORE:
        yield from range(below - 1, -1, -1)
    elif side is Side.AFTER:
        yield from range(above, count)
    else:
        older, newer = below - 1, below
        if newer < count:
            yield newer
            newer += 1
        while newer < count or older >= 0:
            if newer < count:
                yield newer
                newer += 1
            if older >= 0:
                yield older
                older -= 1
