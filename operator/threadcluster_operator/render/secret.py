"""The Secrets by which workers, operator and users know each other: derived, never read back.

A value of a cluster's secret is an HMAC of the operator's key over the cluster's uid and a generation, so that a Secret that
was lost or deleted comes back the same, and the operator needs no right to read any Secret.  A Secret holds one value, or two
while one replaces the other; its content follows from the list of `SecretValue` in the cluster's status.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from threadcluster_operator.render.inputs import RenderInput, client_secret_of, secret_of
from threadcluster_operator.render.objects import Object, child
from threadcluster_operator.render.pod import SECRET_KEY

CLIENT_SECRET_KEY: Final = "internal"  # noqa: S105 - a key's name
"""The key in the Secret of users."""


class SecretValue(NamedTuple):
    """One value of a cluster's secret, by what it is made of."""

    generation: int
    """As in ``spec.secretGeneration``."""
    operator_key: str
    """The fingerprint of the operator's key."""


class SecretState(NamedTuple):
    """The Secrets of a cluster, as its status records them."""

    values: tuple[SecretValue, ...]
    """The first signs, all verify."""
    made: bool
    """Whether the Secrets were made with just these values."""


OperatorKeys = Mapping[str, bytes]
"""The operator's keys by fingerprint; the first makes new values, the others are for values that they made."""


def key_fingerprint(key: bytes) -> str:
    """16 hexadecimal digits that name an operator's key, and do not give it away."""
    return hmac.digest(key, b"threadcluster operator key fingerprint", "sha256")[:8].hex()


def derive(key: bytes, uid: str, generation: int) -> str:
    """One value of the secret of the cluster with this uid."""
    made = hmac.digest(key, f"threadcluster secret 1\0{uid}\0{generation}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def secret_text(keys: OperatorKeys, uid: str, values: Sequence[SecretValue]) -> str | None:
    """The content of the Secret's file; None when one of the operator's keys is not there any more."""
    if not all(value.operator_key in keys for value in values):
        return None
    return "".join(f"{derive(keys[value.operator_key], uid, value.generation)}\n" for value in values)


def next_values(values: tuple[SecretValue, ...], wanted: SecretValue, *, confirmed: bool) -> tuple[SecretValue, ...]:
    """The values to have next, on the way to ``wanted`` alone; ``values`` again when there is nothing to do yet.

    Every step waits until all workers hold what the step before made (``confirmed``): first all accept the new value, then
    all sign with it, then the old one goes.
    """
    if not values:
        return (wanted,)
    if not confirmed or values == (wanted,):
        return values
    first = values[0]
    if len(values) == 1:
        return (first, wanted)
    # Of two, the second is signed with by no worker: it comes, and is wanted; or it goes.
    return (wanted, first) if values[1] == wanted else (first,)


def internal_secrets(wanted: RenderInput, workers: str, users: str) -> tuple[Object, Object]:
    """The Secret of the workers, and that of users, who can order moves by it and not act as a worker; with this content."""
    return (
        _secret(wanted, secret_of(wanted.name), SECRET_KEY, workers),
        _secret(wanted, client_secret_of(wanted.name), CLIENT_SECRET_KEY, users),
    )


def _secret(wanted: RenderInput, name: str, key: str, content: str) -> Object:
    body: Object = {"type": "Opaque", "data": {key: base64.b64encode(content.encode()).decode()}}
    return child(wanted, "v1", "Secret", name, "worker", body)
