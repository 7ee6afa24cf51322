"""What a worker process answers and stores while its Postgres is away, refuses, or changes under it."""
