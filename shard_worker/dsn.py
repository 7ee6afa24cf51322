"""Parses DSNs, and refuses unsupported parameters.

A DSN has the form ``postgresql://user:password@host:port,host:port/database?option=value``.  Several hosts are the
members of one replicated system; which of them is the primary is found out when connecting.  A password with an
unescaped delimiter makes another URL than was meant, which never connects; it is refused with a hint.  No message of
this module shows a user or a password.
"""

from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from shard_worker.contract import url_host

_SCHEMES: Final = ("postgresql://", "postgres://")
_PORT: Final = 5432
_ESCAPES: Final = {"#": "%23", "/": "%2F", "?": "%3F", "@": "%40", "[": "%5B", "]": "%5D"}
_ANY_PRIMARY: Final = ("any", "primary", "read-write")


class Host(NamedTuple):
    """One server of a DSN; without a name the client library chooses, as for a socket of this machine."""

    name: str | None
    port: int | None

    def __str__(self) -> str:
        return f"{url_host(self.name or 'localhost')}:{self.port or _PORT}"


class Dsn(NamedTuple):
    """A DSN that was understood."""

    without_hosts: str
    """The DSN for the client library, which gets the host apart: the URL parser of newer Pythons refuses a list of hosts with an
    IPv6 address in it."""
    hosts: tuple[Host, ...]
    database: str

    @property
    def address(self) -> str:
        """Hosts, ports and database, without user and password: what a message may show."""
        return ",".join(str(host) for host in self.hosts) + (f"/{self.database}" if self.database else "")


def parse_dsn(text: str) -> Dsn:
    """Understand a DSN.  Raises `ValueError` with what is wrong and what to write instead."""
    text = text.strip()
    if not text.startswith(_SCHEMES):
        raise ValueError("the DSN must begin with postgresql:// (it is not shown: it may hold a password)")
    rest = text.partition("://")[2]
    authority_end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, tail = rest[:authority_end], rest[authority_end:]
    if "@" in tail and "@" not in authority:
        raise ValueError(_hint(tail[0]))
    if authority.count("@") > 1:
        raise ValueError(_hint("@"))
    login, at, given = authority.rpartition("@")
    without_hosts = f"{text.partition('://')[0]}://{login}{at}{tail}"
    try:
        parts = urlsplit(without_hosts)
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    except ValueError as error:
        bracket = next((sign for sign in "[]" if sign in login), None)
        raise ValueError(_hint(bracket) if bracket else f"the DSN is no URL: {error}") from error
    if parts.fragment:
        raise ValueError(_hint("#"))
    wanted = options.get("target_session_attrs", "any")
    if wanted not in _ANY_PRIMARY:
        raise ValueError(
            f"target_session_attrs={wanted} asks for a standby: a worker writes, leave it out or write read-write"
        )
    return Dsn(without_hosts, _hosts(given, options), unquote(parts.path.lstrip("/")))


def _hint(sign: str) -> str:
    return f"the user or password of the DSN holds an unescaped {sign!r}: write {_ESCAPES[sign]} instead"


def _hosts(given: str, options: dict[str, str]) -> tuple[Host, ...]:
    """The servers, in the order in which they are named."""
    listed = given or options.get("host", "")
    if not listed:
        return (Host(None, None),)
    ports = [] if given else [_port(each) for each in options.get("port", "").split(",") if each]
    found = []
    for number, each in enumerate(listed.split(",")):
        if not each:
            raise ValueError("the DSN names an empty host between two commas")
        if each.startswith("["):
            name, bracket, port = each[1:].partition("]")
            if not bracket or port[:1] not in ("", ":"):
                raise ValueError("the DSN names an IPv6 address that is not in brackets, as in [::1]:5432")
            port = port.removeprefix(":")
        elif each.startswith("/"):
            name, port = each, ""
        else:
            name, _, port = each.partition(":")
        default = ports[number if len(ports) > 1 else 0] if ports else None
        if len(ports) > 1 and len(ports) != len(listed.split(",")):
            raise ValueError("the DSN names another number of ports than of hosts")
        found.append(Host(unquote(name), _port(port) if port else default))
    return tuple(found)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError("the DSN names a port that is no number from 1 to 65535")
    return int(text)
