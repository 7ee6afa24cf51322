"""The actors: which shard a request belongs to, and the resident threads that decide it.

`region` finds the shard, here or on another worker; `peer_handler` answers the other workers; `shard_host` does what
ownership asks; `shard` is the unit of ownership; `thread_actor` is one resident thread.  Actors are plain objects called
synchronously on the event loop: no task, queue or timer each.
"""
