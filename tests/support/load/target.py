"""Where load goes: an address that was asked for by name, and on this machine unless the caller insists.

Load is a weapon when it is pointed wrongly, so a host that is not loopback is refused by default.
"""

import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit


class Target(NamedTuple):
    """One base URL, taken apart."""

    url: str
    host: str
    port: int
    tls: bool = False

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TargetRefused(ValueError):
    """The URL is not one to send load to; the message says why and what to do."""


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TargetRefused(f"{host}: no such host ({error})") from error
    return all(ipaddress.ip_address(str(entry[4][0]).split("%")[0]).is_loopback for entry in found)


def parse_target(url: str, *, allow_remote: bool = False) -> Target:
    """Take ``url`` apart; raises `TargetRefused` for anything but a plain base URL of a loopback host."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https"):
        raise TargetRefused(f"{url}: only http and https are spoken here")
    if not parts.hostname:
        raise TargetRefused(f"{url}: no host in it")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise TargetRefused(f"{url}: give the base URL alone, without a path")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise TargetRefused(f"{url}: {error}") from error
    if not allow_remote and not _is_loopback(parts.hostname):
        raise TargetRefused(
            f"{url}: {parts.hostname} is not this machine; --allow-remote sends load there all the same"
        )
    return Target(f"{parts.scheme}://{parts.netloc}", parts.hostname, port, parts.scheme == "https")
