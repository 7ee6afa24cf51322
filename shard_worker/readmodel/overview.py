"""The state of the read model over all shards, as every worker shows it: threads that have stopped, and a rebuild under way."""

from typing import Final

from shard_worker.contract_internal import DEAD_THREADS_MOST, DeadThread, ReadModelOverview, RebuildProgress
from shard_worker.database.connection import Session
from shard_worker.domain.ids import ShardId, ThreadId, ulid_text

NEARLY_EVENTS: Final = 200
"""So few events behind the live generation a shard of a new one counts as done: the workers feed the live one first, so under
load no moment need come at which every shard is level."""
_REASON_MOST: Final = 300
# In the order of the primary key: however many threads have stopped, few rows are looked at.
_DEAD_SQL: Final = """
SELECT generation, shard_id, thread_id, seq_nr, event_type, event_version, left(reason, $2) AS reason
  FROM dead_letter ORDER BY generation, thread_id LIMIT $1
"""
# Tables that were in use before are no rebuild, but those that a roll-back goes to.
_REBUILD_SQL: Final = """
SELECT made.generation, made.version, count(*) AS shards,
       count(*) FILTER (WHERE reached.seq >= wanted.seq OR (reached.seq > 0 AND wanted.seq - reached.seq <= $1)) AS done
  FROM readmodel_generation made
  JOIN readmodel_generation live ON live.live
  JOIN projection_offset wanted ON wanted.generation = live.generation
  JOIN projection_offset reached ON reached.generation = made.generation AND reached.shard_id = wanted.shard_id
 WHERE NOT made.live AND NOT made.was_live
 GROUP BY made.generation, made.version
 ORDER BY made.generation DESC LIMIT 1
"""


async def read_overview(connection: Session) -> ReadModelOverview:
    """The overview of now.  Raises what the connection raises."""
    dead = await connection.fetch(_DEAD_SQL, DEAD_THREADS_MOST + 1, _REASON_MOST)
    rebuild = await connection.fetchrow(_REBUILD_SQL, NEARLY_EVENTS)
    return ReadModelOverview(
        dead_threads=tuple(
            DeadThread(
                thread_id=ThreadId(ulid_text(row["thread_id"].bytes)),
                shard=ShardId(row["shard_id"]),
                sequence_nr=row["seq_nr"],
                event_type=row["event_type"],
                event_version=row["event_version"],
                reason=row["reason"],
                generation=row["generation"],
            )
            for row in dead[:DEAD_THREADS_MOST]
        ),
        more_dead_threads=len(dead) > DEAD_THREADS_MOST,
        rebuild=None
        if rebuild is None
        else RebuildProgress(
            generation=rebuild["generation"],
            version=rebuild["version"],
            shards_done=rebuild["done"],
            shards=rebuild["shards"],
        ),
    )
