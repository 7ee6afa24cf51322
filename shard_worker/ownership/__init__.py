"""Which worker owns which shard: leases, claims, releases, fences, and the pure rules that decide them."""
