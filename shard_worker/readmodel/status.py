"""The read model's state, for people."""

import asyncpg

from shard_worker.domain.ids import ulid_text

_GENERATIONS = """
SELECT g.generation, g.version, g.live,
       (SELECT coalesce(sum(o.seq), 0)::bigint FROM projection_offset o WHERE o.generation = g.generation) AS projected,
       (SELECT coalesce(sum((SELECT j.shard_seq FROM journal j WHERE j.shard_id = shard.id
                              ORDER BY j.shard_seq DESC LIMIT 1)), 0)::bigint FROM shard) AS written
  FROM readmodel_generation g ORDER BY g.generation
"""
_DEAD = """
SELECT thread_id, seq_nr, event_type, event_version, reason FROM dead_letter WHERE generation = $1 ORDER BY thread_id
"""


async def read_status(connection: asyncpg.Connection) -> list[str]:
    """A line for each generation, and for each thread whose projection has stopped."""
    lines = []
    for row in await connection.fetch(_GENERATIONS):
        state = "live" if row["live"] else "filled beside it"
        lines.append(
            f"generation {row['generation']} (version {row['version']}, {state}): {row['projected']} of"
            f" {row['written']} events projected"
        )
        for dead in await connection.fetch(_DEAD, row["generation"]):
            lines.append(
                f"  thread {ulid_text(dead['thread_id'].bytes)} has stopped at event {dead['seq_nr']} (type"
                f" {dead['event_type']}, version {dead['event_version']}): {dead['reason']}"
            )
    return lines
