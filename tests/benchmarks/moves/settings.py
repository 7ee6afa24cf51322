"""Settings of one whole run."""

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """Counts, and seconds; the defaults are what the bars are judged on."""

    seed: int = 1
    listen_s: float = 2.0
    """How long the neighbours are listened to before anything starts."""
    beside: bool = False
    """Whether figure 5 is measured beside the others, which spoils the times of all of them."""
    shards: int = 144
    """The default of a cluster."""
    threads_per_shard: int = 8
    cpu_share: float = 0.6
    """Of all cores, for workers, Postgres and the load together: busy, but not saturated."""
    full_share: float = 0.9
    """The same, for a second run of handoffs, which is reported and not judged: nothing to spare."""
    guesses: int = 3
    """How often the load is tried that keeps so much busy."""
    probe_think_s: float = 0.002
    saturate_s: float = 4.0
    steady_s: float = 3.0
    """Before each round, with probes and without moves: what moves are compared with."""

    handoff_rounds: int = 10
    full_rounds: int = 3
    singles: int = 20
    """Of one shard, in a round."""
    groups: int = 6
    """Of `together` shards at once, in a round."""
    together: int = 4
    watch_s: float = 0.35
    """How long a moved shard is watched before the next one moves."""

    kill_rounds: int = 24
    freeze_rounds: int = 6
    leave_rounds: int = 9
    after_s: float = 1.0
    """How long a takeover is watched once it is over."""

    join_shards: int = 1_000
    join_rounds: int = 3
    join_moves: int = 4
    """`spec.rebalance.maxConcurrentMoves`; 4 is the default."""
    plan_runs: int = 5
    plan_shards: int = 100_000
    plan_workers: int = 1_000


QUICK = Settings(
    listen_s=0.3,
    beside=True,
    shards=12,
    threads_per_shard=3,
    saturate_s=0.5,
    steady_s=0.5,
    guesses=0,
    handoff_rounds=1,
    full_rounds=1,
    singles=3,
    groups=1,
    watch_s=0.2,
    kill_rounds=1,
    freeze_rounds=1,
    leave_rounds=1,
    after_s=0.3,
    join_shards=12,
    join_rounds=1,
    plan_runs=1,
    plan_shards=1_000,
    plan_workers=10,
)
