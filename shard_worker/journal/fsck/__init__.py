"""`fsck`: proves a journal from itself, or names each place that cannot be."""
