"""The Postgres that a user chooses for a local cluster on the command line."""

from typing import NamedTuple


class DatabaseChoice(NamedTuple):
    """Which Postgres the cluster uses, instead of what the resource says."""

    url: str | None = None
    """None: the resource's, or an embedded one."""
    take_over: str = ""
    """The uid of the cluster that holds the database and is to be displaced; empty: none."""
