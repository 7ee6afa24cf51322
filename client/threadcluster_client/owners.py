"""The owners of threads: which worker answers a call without passing it on.

The cluster's map (``/cluster`` of any worker's management port) names the owner of each shard and the public address of each
worker.  A map may be old: every worker answers every call, so a call that goes to the wrong one is only slower.
"""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

SLICES: Final = 16_384
"""Parts of the threads, of which a shard has a range; part of the cluster's contract."""
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)


def shard_of(thread_id: str, shards: int) -> int | None:
    """The shard of a thread in a cluster of ``shards`` shards; None for a text that is no id."""
    upper = thread_id.upper() if thread_id.isascii() else ""
    if _ULID.fullmatch(upper) is None:
        return None
    number = 0
    for letter in upper:
        number = number << 5 | _CROCKFORD.index(letter)
    digest = sha256(number.to_bytes(16, "big")).digest()
    return (digest[0] << 6 | digest[1] >> 2) * shards // SLICES


class Owners:
    """One reading of the map: by shard, the address of its owner; None for a shard without one that is ready."""

    def __init__(self, addresses: Sequence[str | None]) -> None:
        self._addresses = addresses

    def address_of(self, thread_id: str) -> str | None:
        """The base URL of the worker that owns a thread, where there is one."""
        shard = shard_of(thread_id, len(self._addresses)) if self._addresses else None
        return None if shard is None else self._addresses[shard]


def owners_in(body: bytes) -> Owners | None:
    """The owners in an answer to ``/cluster``; None for an answer that is no map."""
    try:
        document: Mapping[str, Any] = json.loads(body)
        ready = {each["name"]: str(each["address"]) for each in document["workers"] if each["state"] == "ready"}
        owners = {int(each["id"]): ready.get(each["owner"]) for each in document["shards"]}
        return Owners([owners[shard] for shard in range(len(document["shards"]))])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
