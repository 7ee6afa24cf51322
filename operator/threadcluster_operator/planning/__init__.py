"""Planning: which worker should own which shard, and what a cluster needs next; for every platform."""
