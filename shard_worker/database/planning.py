"""How Postgres plans the statements that a session keeps: every row is looked up by an index.

A statement is planned when a session first runs it, and the plan is kept until the table's statistics are renewed.  In a new
cluster that is while its tables are empty, when to read a whole table is the cheapest plan; a minute of load later each execution
would read all of it.
"""

from collections.abc import Mapping
from typing import Final

BY_INDEX: Final[Mapping[str, str]] = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
}
"""Settings for a session whose statements name each row by a key: the tables are joined by looking up one row after another."""


def set_up_statements(settings: Mapping[str, str]) -> str:
    """The statements that set these in a session."""
    return "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())
