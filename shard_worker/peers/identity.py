"""Identity of a worker on the management port, and the checks on the other side.

`WorkerIdentity` holds the values of the cluster's secret and the worker's present incarnation, and makes from them the
TLS contexts of both ends of a connection, again whenever one of the two has changed.  A server shows the certificate
that the client asks for by name (SNI): ``<incarnation>.peer`` or ``internal``; the certificate's purpose then decides
which authorities the client's own certificate is verified by.  OpenSSL takes those authorities from the context that the
SNI callback chooses, and everything else (TLS 1.3, no tickets, strict verification, a certificate demanded) from
`server_context`.

`SecretFile` reads the file again while the worker runs.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from shard_worker.contract_tls import (
    INTERNAL_NAME,
    Authority,
    Purpose,
    PurposeContext,
    fingerprint,
    harden,
    issuer_of,
    make_context,
    peer_name,
    purpose_of_name,
)

log = logging.getLogger(__name__)

_READ_EVERY_S: Final = 1.0
"""How often a secret's file is read again; a rotation waits for every worker, so a second is soon enough."""

ANY_INCARNATION: Final = "any"
"""Placeholder for the worker's current incarnation, in the name that a greeting peer asks for."""
_REFUSED: Final = ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


class WorkerIdentity:
    """The certificates of one worker; ``incarnation`` gives the present one, or an empty text before the first."""

    def __init__(self, secrets: Sequence[bytes], incarnation: Callable[[], str]) -> None:
        self._incarnation = incarnation
        self._authorities: dict[Purpose, list[Authority]] = {}
        self._client: tuple[str, PurposeContext] | None = None
        self._peer_server: tuple[str, PurposeContext] | None = None
        self._internal_server: PurposeContext | None = None
        self.fingerprints: tuple[str, ...] = ()
        """Of the values of the secret that are held now; the first signs, all verify."""
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For accepted connections; it has no certificate of its own, the name that the client asks for chooses one."""
        harden(self.server_context)
        self.server_context.num_tickets = 0
        self.server_context.sni_callback = self._choose
        self.hold(secrets)

    def hold(self, secrets: Sequence[bytes]) -> None:
        """Sign by the first of these values, and verify by all of them, from the next connection on."""
        self._authorities = {purpose: [Authority(secret, purpose) for secret in secrets] for purpose in Purpose}
        self.fingerprints = tuple(map(fingerprint, secrets))
        self._client = self._peer_server = self._internal_server = None

    def greeting_context(self) -> PurposeContext:
        """The context of a connection to whichever incarnation is at an address: any peer of the cluster will do."""
        context = self._peer_context(ssl.PROTOCOL_TLS_CLIENT, self._incarnation(), server=False)
        context.check_hostname = False
        return context

    def client_context(self) -> PurposeContext:
        """The context of a connection to a peer; to be used at once, since the incarnation may change."""
        incarnation = self._incarnation()
        if self._client is None or self._client[0] != incarnation:
            made = self._peer_context(ssl.PROTOCOL_TLS_CLIENT, incarnation, server=False)
            self._client = (incarnation, made)
        return self._client[1]

    def _peer_context(self, protocol: int, incarnation: str, *, server: bool) -> PurposeContext:
        authorities = self._authorities[Purpose.PEER]
        return make_context(protocol, authorities, peer_name(incarnation), server=server, client=not server)

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """Choose the certificate for a server name; an alert for a name that this worker does not have."""
        purpose = None if name is None else purpose_of_name(name)
        if purpose is Purpose.INTERNAL:
            if self._internal_server is None:
                authorities = self._authorities[purpose]
                self._internal_server = make_context(
                    ssl.PROTOCOL_TLS_SERVER, authorities, INTERNAL_NAME, server=True, client=False
                )
            connection.context = self._internal_server
            return None
        incarnation = self._incarnation()
        ours = (peer_name(incarnation), peer_name(ANY_INCARNATION))
        if purpose is None or not incarnation or name is None or name.lower() not in ours:
            return _REFUSED
        if self._peer_server is None or self._peer_server[0] != incarnation:
            made = self._peer_context(ssl.PROTOCOL_TLS_SERVER, incarnation, server=True)
            self._peer_server = (incarnation, made)
        connection.context = self._peer_server[1]
        return None


def signers_of(connection: ssl.SSLObject) -> tuple[str, ...]:
    """The fingerprints of the secrets that the certificates of both ends were made with, once they are proved."""
    context = connection.context
    assert isinstance(context, PurposeContext)  # chosen by `WorkerIdentity`
    return (context.signed_by, issuer_of(connection))


def purpose_of(connection: ssl.SSLObject) -> Purpose:
    """Purpose of an accepted connection, once both ends are proved."""
    context = connection.context
    assert isinstance(context, PurposeContext)  # chosen by `WorkerIdentity`
    return context.purpose


class SecretFile:
    """Reads the secret's values again, and passes on those that changed."""

    def __init__(
        self,
        read: Callable[[], tuple[bytes, ...]],
        changed: Callable[[tuple[bytes, ...]], None],
        every_s: float = _READ_EVERY_S,
    ) -> None:
        self._read = read
        self._changed = changed
        self._every_s = every_s
        self._held = read()
        self._refused = ""

    async def watch(self) -> None:
        """Go on until cancelled.  A file that cannot be read, or holds too little, changes nothing and is logged once.

        An editor or a volume may leave it absent, empty or half-written for a moment.
        """
        while True:
            await asyncio.sleep(self._every_s)
            self.look()

    def look(self) -> None:
        """Read the file once."""
        try:
            found = self._read()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the worker goes on with what it holds
            if repr(error) != self._refused:
                log.error(
                    "worker failed to read its secret again; the old values are kept", extra={"cause": str(error)}
                )
            self._refused = repr(error)
            return
        self._refused = ""
        if found != self._held:
            self._held = found
            self._changed(found)
