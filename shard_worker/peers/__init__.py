"""Frames between workers: one kept-open connection a pair, many requests on it at once."""
