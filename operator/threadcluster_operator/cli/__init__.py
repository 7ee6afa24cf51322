"""What a user does to a running cluster: one noun a file, each a command of `threadcluster`."""
