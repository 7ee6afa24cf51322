"""The data plane of ThreadCluster: one process that owns shards of chat threads and serves them over HTTP."""
