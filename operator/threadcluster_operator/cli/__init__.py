"""The commands of `threadcluster` on a running cluster: one command a file."""
