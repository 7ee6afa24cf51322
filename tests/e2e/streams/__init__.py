"""Streams of events from real worker processes."""
