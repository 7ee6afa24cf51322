"""Checking one shard's order: a dense sequence, epochs that never fall, one owner an epoch.  Pure.

Why a claim's ``from_seq`` proves so much: it is the head that the new owner read after its claim was acknowledged, plus
one.  So every event of the new epoch lies at or above it, every event of an older epoch below it, and a journal that
ends below ``from_seq - 1`` has lost its tail.  ``from_seq`` is null for a release, and for an epoch that an owner
raised by itself; then the neighbours decide.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from shard_worker.journal.fsck.report import Check, Finding

Found = Callable[[Finding], None]
"""Called with each finding."""

_NO_CEILING: Final = 1 << 63


class Claim(NamedTuple):
    """One row of ``shard_epoch``; without an owner it is a release."""

    epoch: int
    incarnation: str | None
    from_seq: int | None


class ShardCheck:
    """Walks one shard's rows in the order of ``shard_seq``; call `row` for each, then `end`.

    ``proved_seq`` and ``proved_epoch`` are of the last row that an earlier check has proved; the rows after it are given.
    """

    def __init__(
        self,
        shard_id: int,
        row_epoch: int | None,
        claims: Sequence[Claim],
        found: Found,
        proved_seq: int = 0,
        proved_epoch: int = 0,
    ) -> None:
        self._shard_id = shard_id
        self._row_epoch = row_epoch
        self._found = found
        self._claims: dict[int, Claim] = {}
        self._last_seq = proved_seq
        self._epoch = proved_epoch
        self._ceiling = _NO_CEILING
        for claim in sorted(claims, key=lambda claim: claim.epoch):
            if claim.epoch in self._claims:
                self._say(Check.CLAIM, "the epoch was claimed twice", epoch=claim.epoch)
            self._claims.setdefault(claim.epoch, claim)
        self._epochs, self._ceilings = self._bounds()
        if proved_seq:
            self._ceiling = self._ceiling_of(proved_epoch)
            if proved_seq >= self._ceiling:
                self._lies_above(proved_seq, proved_epoch)

    def row(self, shard_seq: int, epoch: int) -> None:
        """The next row of the shard."""
        if shard_seq != self._last_seq + 1:
            self._jump(shard_seq)
        if epoch < self._epoch:
            self._say(Check.EPOCH, f"the epoch falls, from {self._epoch}", shard_seq=shard_seq, epoch=epoch)
            self._enter(epoch, shard_seq)
        elif epoch > self._epoch or self._last_seq == 0:
            self._enter(epoch, shard_seq)
        if shard_seq >= self._ceiling:
            self._lies_above(shard_seq, epoch)
        self._last_seq = max(self._last_seq, shard_seq)

    def end(self) -> None:
        """The shard has no further row."""
        newest = max([self._epoch, *self._claims])
        if self._row_epoch is None:
            self._say(Check.SHARD_ROW, "the shard has no row: nothing can be appended to it")
        elif self._row_epoch < newest:
            self._say(Check.SHARD_ROW, f"the shard's row has an epoch older than {newest}", epoch=self._row_epoch)
        seen = max((claim for claim in self._claims.values()), key=lambda claim: claim.from_seq or 0, default=None)
        if seen is not None and seen.from_seq is not None and seen.from_seq > self._last_seq + 1:
            self._say(
                Check.SHARD_SEQ,
                f"the journal ends at {self._last_seq}, but a claim saw it reach {seen.from_seq - 1}: its tail is lost",
                epoch=seen.epoch,
            )

    def _bounds(self) -> tuple[list[int], list[int]]:
        """For each claimed epoch, in order, the least ``from_seq`` of it and all later ones."""
        epochs = sorted(self._claims)
        ceilings: list[int] = []
        least = _NO_CEILING
        for epoch in reversed(epochs):
            from_seq = self._claims[epoch].from_seq
            least = least if from_seq is None else min(least, from_seq)
            ceilings.append(least)
        return epochs, ceilings[::-1]

    def _ceiling_of(self, epoch: int) -> int:
        """The number at which the next claims after an epoch began, or none."""
        later = bisect_right(self._epochs, epoch)
        return self._ceilings[later] if later < len(self._ceilings) else _NO_CEILING

    def _lies_above(self, shard_seq: int, epoch: int) -> None:
        """A row above its epoch's ceiling."""
        self._say(
            Check.CLAIM,
            f"an event of this epoch lies at or above {self._ceiling}, where a later claim began",
            shard_seq=shard_seq,
            epoch=epoch,
        )
        self._ceiling = _NO_CEILING  # once an epoch is enough

    def _enter(self, epoch: int, shard_seq: int) -> None:
        """The first row of an epoch."""
        self._epoch = epoch
        self._ceiling = self._ceiling_of(epoch)
        claim = self._claims.get(epoch)
        if claim is None:
            self._say(Check.CLAIM, "events of an epoch that no worker claimed", shard_seq=shard_seq, epoch=epoch)
        elif claim.incarnation is None:
            self._say(
                Check.CLAIM, "events of an epoch in which no worker owned the shard", shard_seq=shard_seq, epoch=epoch
            )
        elif claim.from_seq is not None and shard_seq < claim.from_seq:
            self._say(
                Check.CLAIM,
                f"the epoch's first event lies below {claim.from_seq}, where its claim began",
                shard_seq=shard_seq,
                epoch=epoch,
            )

    def _jump(self, shard_seq: int) -> None:
        expected = self._last_seq + 1
        if shard_seq < expected:
            self._say(Check.SHARD_SEQ, "the number occurs twice", shard_seq=shard_seq)
        elif shard_seq == expected + 1:
            self._say(Check.SHARD_SEQ, "the event is missing", shard_seq=expected)
        else:
            self._say(Check.SHARD_SEQ, f"the events from here to {shard_seq - 1} are missing", shard_seq=expected)

    def _say(self, check: Check, detail: str, *, shard_seq: int | None = None, epoch: int | None = None) -> None:
        self._found(Finding(check=check, detail=detail, shard_id=self._shard_id, shard_seq=shard_seq, epoch=epoch))
