"""Fakes: what cannot be had for real in a test, played in memory."""
