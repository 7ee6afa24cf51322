"""Streams of events: what happens in threads, sent to clients as it becomes durable.

`position` and `framing` and `access` decide and write without I/O.  `history` reads the journal.  `feed` follows one
thread for all its followers on this worker, `follower` is one client's stream, and `hub` owns both.
"""
