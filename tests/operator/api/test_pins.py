"""Pins by command: which can hold, and which of two wins."""

import pytest
from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.api.pins import pin_of, wrong_pin

from shard_worker.contract_internal import ShardEntry, ShardLoad, ShardState
from shard_worker.domain.ids import ShardId

SPEC = ThreadClusterSpec.model_validate(
    {"shards": 8, "rebalance": {"pins": [{"shard": 3, "worker": "c-1"}]}}, by_alias=True
)


@pytest.mark.parametrize(
    ("number", "by_command", "expected"),
    [
        (2, None, None),
        (2, "c-0", ("c-0", "command")),
        (3, None, ("c-1", "spec")),
        (3, "c-0", ("c-1", "spec")),
    ],
)
def test_a_pin_in_the_spec_wins(number: int, by_command: str | None, expected: tuple[str, str] | None) -> None:
    """And the source of the one that holds is shown."""
    entry = ShardEntry(
        id=ShardId(number),
        owner="c-2",
        incarnation="first",
        epoch=1,
        state=ShardState.SERVING,
        target="c-2",
        reason=None,
        since=None,
        load=ShardLoad(),
        pin=by_command,
    )
    assert pin_of(entry, SPEC) == expected


def test_a_pin_that_could_never_hold_is_refused() -> None:
    """A worker or a shard that there is not.  A pin is taken back whatever workers there are."""
    known = {"c-1", "c-0"}
    assert wrong_pin(7, "c-1", shards=8, workers=known) is None
    assert wrong_pin(7, None, shards=8, workers=()) is None
    assert wrong_pin(7, "c-3", shards=8, workers=known) == "no worker is called 'c-3'; there are c-0, c-1"
    assert wrong_pin(7, "c-3", shards=8, workers=()) == "no worker is called 'c-3'; there are none"
    assert wrong_pin(8, None, shards=8, workers=known) == "there is no shard 8; the cluster has shards 0 to 7"
    assert wrong_pin(0, "c-0", shards=8, workers=known) is None
    assert wrong_pin(-1, None, shards=8, workers=known) == "there is no shard -1; the cluster has shards 0 to 7"
    assert wrong_pin(8, "c-3", shards=8, workers=()) == "no worker is called 'c-3'; there are none"
