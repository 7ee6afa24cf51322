"""Host check: whether a request was meant for this server, against DNS rebinding.

A page of a foreign site can make its own name resolve to 127.0.0.1 and then read a local server's answers, since the
browser takes both for one origin.  Its requests carry the foreign name.  A request without ``Host`` passes: no browser
sends one.
"""

import re
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from shard_worker.gateway.http.problems import Problem, ProblemCode

_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@/?#\s]{1,255})(?::[0-9]{0,5})?")

_SEEN_MOST: Final = 100


class HostCheck:
    """Knows the names under which clients may call; with none of them every name is good."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(_plain(name) for name in allowed)
        self._seen: set[str] = set()
        """Values of ``Host`` that were found good, at most `_SEEN_MOST`."""

    def refusal(self, request: web.BaseRequest) -> Problem | None:
        """421 when the request names another host, or None."""
        if not self._allowed:
            return None
        given = request.headers.getall(hdrs.HOST, [])
        target = request.raw_path
        if target[:1] != "/" and "://" in target:  # the absolute form: its host counts, not the field's
            given = [re.split(r"[/?#]", target.partition("://")[2], maxsplit=1)[0]]
        if not given or (len(given) == 1 and self.admits(given[0])):
            return None
        detail = "Host: names no host of this server; the setting `allowed_hosts` lists those that clients may use"
        return Problem(code=ProblemCode.MISDIRECTED_REQUEST, detail=detail, close=True)

    def admits(self, authority: str) -> bool:
        """Whether a value of ``Host`` is a name of this server."""
        return not self._allowed or authority in self._seen or self._allows(authority)

    def _allows(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority)
        allowed = match is not None and _plain(match[1]) in self._allowed
        if allowed and len(self._seen) < _SEEN_MOST:
            self._seen.add(authority)
        return allowed


def _plain(name: str) -> str:
    """A host name in one spelling: lower case, without the brackets of IPv6 and the dot of the root."""
    return name.strip("[]").removesuffix(".").lower()
