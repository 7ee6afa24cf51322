"""The operator's key, from which the secrets of all clusters are derived: a Secret in the operator's own namespace.

The operator makes the Secret at its first start, and again, with the same content, when it is deleted while an operator
leads.  A Secret that is lost together with every operator is replaced by another key; what that means for clusters is
their ``InternalSecretMismatch``.  The Secret holds one key, or several while one replaces the others, a line each: the first
makes new values, the others are kept for the values that they made.
"""

import asyncio
import base64
import logging
import secrets
from typing import Final

from threadcluster_operator.kube.client import SECRET, Conflict, Kube, KubeError, Object
from threadcluster_operator.render import key_fingerprint

log = logging.getLogger(__name__)

KEY_SECRET_NAME: Final = "threadcluster-operator-key"  # noqa: S105 - a name
KEY_FIELD: Final = "keys"
_LEAST: Final = 32
"""Minimum bytes of a key: it must not be guessed from the secret of a cluster."""
_MOST: Final = 4
_READ_AGAIN_S: Final = 30.0
"""Time between two looks at the Secret: how long a rotation of the key waits at most."""


class OperatorKey:
    """The keys by fingerprint; ``keys`` is changed in place, so that every part that holds the dict has the present keys."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.keys: dict[str, bytes] = {}
        self._kube = kube
        self._namespace = namespace

    async def load(self) -> None:
        """Read the Secret, and make it where it is missing.  Raises `KubeError`, and `ValueError` for unusable content."""
        found = await self._kube.get(SECRET, self._namespace, KEY_SECRET_NAME)
        if found is None:
            found = await self._make()
        keys = parse_keys(found)
        if list(keys) != list(self.keys):
            self.keys.clear()
            self.keys.update(keys)
            log.info("operator key read", extra={"keys": list(keys)})

    async def follow(self) -> None:
        """Read the Secret again and again, without end; what cannot be read changes nothing."""
        while True:
            await asyncio.sleep(_READ_AGAIN_S)
            try:
                await self.load()
            except (KubeError, ValueError) as error:
                extra = {"secret": KEY_SECRET_NAME, "cause": str(error)}
                log.error("operator key not read again; the keys of before are used", extra=extra)

    async def _make(self) -> Object:
        keys = list(self.keys.values()) or [secrets.token_urlsafe(32).encode()]
        content = base64.b64encode(b"".join(key + b"\n" for key in keys)).decode()
        body: Object = {
            "apiVersion": SECRET.group_version,
            "kind": SECRET.kind,
            "metadata": {"name": KEY_SECRET_NAME, "namespace": self._namespace},
            "type": "Opaque",
            "data": {KEY_FIELD: content},
        }
        try:
            made = await self._kube.create(SECRET, body)
        except Conflict:  # another replica led until a moment ago, and has made it
            found = await self._kube.get(SECRET, self._namespace, KEY_SECRET_NAME)
            if found is None:
                raise
            return found
        log.warning("operator key made", extra={"secret": KEY_SECRET_NAME, "again": bool(self.keys)})
        return made


def parse_keys(secret: Object) -> dict[str, bytes]:
    """The keys in the Secret, in order.  Raises `ValueError`, without showing any of them."""
    try:
        content = base64.b64decode((secret.get("data") or {})[KEY_FIELD], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Secret {KEY_SECRET_NAME} has no key {KEY_FIELD}: {error!r}") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not 1 <= len(lines) <= _MOST:
        raise ValueError(
            f"{KEY_FIELD} of Secret {KEY_SECRET_NAME} must hold 1 to {_MOST} keys, a line each, not {len(lines)}"
        )
    if min(map(len, lines)) < _LEAST:
        raise ValueError(f"each of {KEY_FIELD} of Secret {KEY_SECRET_NAME} must have at least {_LEAST} bytes")
    return {key_fingerprint(line): line for line in lines}
