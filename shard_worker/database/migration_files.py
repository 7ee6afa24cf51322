"""The migrations of this release: numbered SQL files, each a list of statements that run one by one.

A file is split here, not by the server, because each statement is a transaction of its own: one that waits for a lock
must hold no other.  A statement with the word ``CONCURRENTLY`` runs outside of a transaction, which Postgres asks for.

A statement that would stop a running cluster is refused when a later file is read: an index on a table that another
file made is built concurrently.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<literal> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<end> ; )
    | (?P<space> \s+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_INDEX: Final = re.compile(
    r"CREATE (?:UNIQUE )?INDEX (?P<concurrently>CONCURRENTLY )?(?P<name>\w+) ON (?:ONLY )?(?P<table>\w+)", re.IGNORECASE
)
_TABLE: Final = re.compile(r"CREATE TABLE (\w+)", re.IGNORECASE)


class Statement:
    """One statement of a migration, without comments, on one line outside of its literals."""

    def __init__(self, sql: str) -> None:
        self.sql = sql

    @property
    def outside_transaction(self) -> bool:
        """Whether Postgres refuses it inside of a transaction; it may then be half done after a failure."""
        return "CONCURRENTLY" in self.sql.upper().split()

    @property
    def index(self) -> str | None:
        """The index that it makes, or None."""
        made = _INDEX.match(self.sql)
        return None if made is None else made["name"]

    def __str__(self) -> str:
        """A short title."""
        return self.sql.split(" (")[0][:80]


class Migration:
    """One version of the schema: a number, a name, and statements.  Raises `ValueError` for what no file may do."""

    def __init__(self, version: int, name: str, sql: str) -> None:
        self.version = version
        self.name = name
        self.statements = tuple(map(Statement, _split(sql)))
        tables = {made[1] for each in self.statements if (made := _TABLE.match(each.sql))}
        for statement in self.statements:
            made = _INDEX.match(statement.sql)
            if made is not None and made["concurrently"] is None and made["table"] not in tables:
                raise ValueError(
                    f"migration {version} ({name}) must make index {made['name']} concurrently: rows of {made['table']}"
                    " may be many, and nothing could be written meanwhile"
                )

    @cached_property
    def checksum(self) -> str:
        """Tells an edited migration from the one that ran; comments and line breaks do not count."""
        return hashlib.sha256(";".join(statement.sql for statement in self.statements).encode()).hexdigest()


def _split(sql: str) -> Iterator[str]:
    """The statements of a file, which end with a semicolon; a body as ``BEGIN ATOMIC`` is not known here."""
    parts: list[str] = []
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "end":
            yield "".join(parts).strip()
            parts.clear()
        elif token["comment"] is not None or token["space"] is not None:
            if parts and parts[-1] != " ":
                parts.append(" ")
        else:
            parts.append(token[0])
    if rest := "".join(parts).strip():
        raise ValueError(f"a migration's last statement has no semicolon: {rest[:80]}")


def known_migrations() -> list[Migration]:
    """All versions this release knows, in order."""
    found = []
    for file in sorted(files("shard_worker.database").joinpath("migrations").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text()))
    return found


SCHEMA_VERSION: Final = known_migrations()[-1].version
"""The schema that this release writes."""
