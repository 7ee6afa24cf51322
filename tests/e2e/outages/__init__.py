"""Answers and rows of a worker process while its Postgres is away, refuses, or is replaced."""
