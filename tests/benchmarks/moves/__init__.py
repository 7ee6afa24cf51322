"""`make bench-moves`: what a move of a shard costs those who write to it, measured from where they stand.

Real worker processes on a Postgres of the benchmark's own, under load from a process of its own.  Whatever is judged is
a distribution, and is judged by a percentile of it that is named.
"""
