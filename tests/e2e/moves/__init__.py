"""Shards that move between real worker processes, planned and forced, while clients chat."""
