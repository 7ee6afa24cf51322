"""A cluster in simulated time: the real reconciler core and the real planner, on a model of the database and of the links.

The product's own code: `shard_worker.ownership.reconciler_core` with `failure_detector`, `handoff` and `assignment`, and
`threadcluster_operator.planning.placement` and `planner`.  A model: the statements (`database`, `transactions`, compared
with their SQL by `test_statements`), the lease and the membership (`worker`), the shard region and the appender (`host`).

Every schedule follows from its seed alone.  `python -m tests.simulation SEED` prints one as a story.
"""
