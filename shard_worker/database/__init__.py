"""Postgres: checked connections, the schema and its migrations, and who may do what."""
