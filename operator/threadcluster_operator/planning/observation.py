"""What the workers' answers to `GET ownership` come to: the newest view of all, and for what each serves its own word.

A worker that is frozen still looks alive to whoever started it, and a row in the database outlives its process; what
counts as alive here is what may be given a shard.
"""

from collections.abc import Mapping, Set
from typing import Any

from shard_worker.domain.ids import ShardId
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.workers.client import newest

Answers = dict[str, dict[str, Any]]  # JSON objects, by the worker that gave them


def build_observation(
    answers: Mapping[str, Mapping[str, Any]], *, running: Set[str], starting: Set[str], emptying: Set[str]
) -> ShardOwnership | None:
    """What the planner goes by, or None when nobody knows.

    A worker that is ``starting`` is still to become what it was or more: its share waits for it.  One that is fenced or
    not ``running`` gets nothing, and its peers take what it had.
    """
    found = newest(dict(answer) for answer in answers.values())
    if found is None:
        return None
    workers = {}
    for row in found["workers"]:
        name = row["name"]
        alive = name in running and row["state"] != "fenced"
        workers[name] = Worker(
            name,
            live=alive or name in starting,
            leaving=alive and row["leaving"],
            cordoned=row["cordoned"],
            draining=row["draining"] or name in emptying,
            reads=row.get("readsFormat", 1),
        )
    return ShardOwnership(
        found["planVersion"],
        {ShardId(row["id"]): row["owner"] for row in found["shards"]},
        {ShardId(row["id"]): row["target"] for row in found["shards"]},
        {name: frozenset(answer["serving"]) for name, answer in answers.items() if is_member(name, answer)},
        workers,
        {ShardId(row["id"]): row["load"]["commandsPerSecond"] for row in found["shards"]},
        {name: tuple(excess) for name, answer in answers.items() if (excess := answer.get("excessPrivileges"))},
        {ShardId(row["id"]): row.get("format", 1) for row in found["shards"]},
    )


def is_member(name: str, answer: Mapping[str, Any] | None) -> bool:
    """A worker reads the database only after it has registered there, so its own row in its answer is its own."""
    return answer is not None and any(row["name"] == name and row["state"] != "fenced" for row in answer["workers"])
