"""A cluster in simulated time: the real decisions and the real planner, on a model of the database and of the links.

What is real: `shard_worker.ownership.handoff`, `share`, `threadcluster_operator.planning.placement` and `planner`.  What is
a model, kept line by line beside what it stands for: the transactions (`database`, `transactions`), the steward's,
lease's and membership's shells (`worker`, `steward`), the shard region and the appender (`host`).

Every schedule follows from its seed alone.  `python -m tests.simulation SEED` tells one as a story.
"""
