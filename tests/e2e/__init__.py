"""Tests of whole processes: real workers, a real Postgres, a real API server, a real node."""
