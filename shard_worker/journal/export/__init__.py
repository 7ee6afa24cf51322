"""`export`: the journal's events as files of other programs, each event once, in order, never past a gap."""
