"""The Postgres that a user chooses for a local cluster: checked before anything is written, and shown without a password."""

import re
from typing import Final, NamedTuple

from shard_worker.dsn import parse_dsn

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,20})://", re.IGNORECASE)
_SECRET_OPTION: Final = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


class DatabaseChoice(NamedTuple):
    """Which Postgres the cluster uses, instead of what the resource says."""

    url: str | None = None
    """None: the resource's, or an embedded one."""
    take_over: str = ""
    """The uid of the cluster that holds the database and is to be displaced; empty: none."""
    source: str = ""
    """Where the DSN was given, for a message about it."""


def wrong_dsn(url: str) -> str | None:
    """Why a DSN cannot be used, without any of its text but the scheme; None for one that can."""
    scheme = _SCHEME.match(url.strip())
    if scheme is not None and scheme[1] not in ("postgresql", "postgres"):
        return f"the DSN begins with {scheme[1]}://, and ThreadCluster needs Postgres: postgresql://user:password@host/database"
    try:
        parse_dsn(url)
    except ValueError as error:
        return str(error)
    return None


def without_password(dsn: str) -> str:
    """A DSN for people and documents: with its user, and without a password; a text that is no DSN is not shown at all."""
    if wrong_dsn(dsn) is not None:
        return ""
    scheme, _, rest = dsn.strip().partition("://")
    login, at, place = rest.rpartition("@")
    user = login.partition(":")[0]
    return _SECRET_OPTION.sub(r"\1…", f"{scheme}://{user}{at}{place}")
