"""JSON bounds: how much structure a body may have, counted in its raw bytes before anything decodes them.

Decoding costs time for each array, object, name and value, far more than for each byte: 1 MiB of ``[]`` takes a
quarter of a second.  The bounds are above everything that a valid request of the route can hold, so a body beyond them
is refused with one sentence.

The first count takes strings for structure as well and is exact enough for nearly every body.  Only a body over a
bound by that count is looked at again without its strings.  A body that is no JSON may be counted too high after its
first error, never too low before it, and the decoder stops there.
"""

from typing import Final, NamedTuple

from shard_worker.gateway.http.failures import FailureCode, of_body
from shard_worker.gateway.http.problems import ProblemRaised, invalid


class JsonBounds(NamedTuple):
    """The most that a body may hold."""

    names: int
    """Names of fields, in all objects together."""
    values: int
    """Elements of arrays and fields of objects, all together."""
    containers: int
    """Arrays and objects."""


ORDINARY: Final = JsonBounds(names=1_000, values=6_000, containers=250)
"""Of a body with at most two lists of 1,000 ids; what is beyond the schema is listed in the answer as far as here."""
MESSAGES: Final = JsonBounds(names=1_500, values=40_000, containers=1_000)
"""Of ``messages/add``: 100 messages with four fields each; 1 MiB can hold 36,000 ids."""
PLAN: Final = JsonBounds(names=16_000, values=16_000, containers=5_000)
"""Of a plan for 4,096 shards with three fields each."""


def _over(most: int, parts: str) -> ProblemRaised:
    return invalid(of_body(FailureCode.TOO_COMPLEX, f"must have at most {most} {parts}"))


def check(raw: bytes, bounds: JsonBounds) -> None:
    """Raise 400 when a body has more structure than ``bounds`` allow."""
    if (
        raw.count(b":") <= bounds.names
        and raw.count(b",") <= bounds.values
        and raw.count(b"[") + raw.count(b"{") <= bounds.containers
    ):
        return
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    if plain.count(b'"') > 2 * sum(bounds):
        raise _over(sum(bounds), "strings")
    outside = b"".join(plain.split(b'"')[::2])
    if outside.count(b":") > bounds.names:
        raise _over(bounds.names, "fields")
    if outside.count(b",") > bounds.values:
        raise _over(bounds.values, "values")
    if outside.count(b"[") + outside.count(b"{") > bounds.containers:
        raise _over(bounds.containers, "arrays and objects")
