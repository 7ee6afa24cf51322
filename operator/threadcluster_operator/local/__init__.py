"""The local platform: the same ThreadCluster, with worker processes instead of pods."""
