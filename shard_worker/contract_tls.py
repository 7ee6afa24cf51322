"""Certificates by which workers, operator and CLI prove themselves to each other: derived from the cluster's secret.

Each purpose has a certificate authority of its own: `Purpose.PEER` for the frames between workers, `Purpose.INTERNAL` for
``/internal/v1``.  HKDF-SHA256 derives the authority's Ed25519 key from the secret, with the purpose in its label, so every
holder of the secret derives the same authorities and no key is ever sent; a holder of one authority's key alone
cannot make the other's certificates.  A leaf certificate has a random key, is made by the process that uses it, and never
leaves that process: ``ssl`` only loads files, so the leaf passes through a memfd.

A line of the file may also be the key of the authority `Purpose.INTERNAL` alone (`internal_key`): its holder orders moves, and
cannot act as a worker.

The secret's file holds one value, or two while the secret is rotated: the first signs, both verify.  An authority's name
ends with the fingerprint of its secret, so that each side of a connection knows which value the other side used.
Certificates are valid from 1970 to 9999: a clock that steps must not end a cluster.

TLS is 1.3 alone, without session tickets, and verifies with ``VERIFY_X509_STRICT``.  The operator imports this module too.
"""

import datetime
import os
import re
import ssl
import sys
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SECRET_LEAST: Final = 16
"""Minimum bytes of a secret: the port shows a certificate to any client, which may test guesses against it offline."""
SECRETS_MOST: Final = 2
"""Values that a secret's file may hold: the present one, and one that comes or goes."""
INTERNAL_NAME: Final = "internal"
"""The name that a client of ``/internal/v1`` asks for (SNI), and that the server's certificate must have."""

_KEY: Final = re.compile(rb"internal-key:([0-9a-f]{16}):([0-9a-f]{64})")
"""A line that is no secret, but the key of one authority: the fingerprint of the secret, and the key."""
_PEER_SUFFIX: Final = ".peer"
_INTERNAL_CLIENT: Final = "client.internal"
_SALT: Final = b"threadcluster tls 1"
_FROM: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_CONTEXTS_KEPT: Final = 1_024
"""Contexts of `internal_client_context` that are kept; an operator has one for each of its clusters."""


class Purpose(StrEnum):
    """The role that a certificate proves of its holder."""

    PEER = "peer"
    INTERNAL = "internal"


def parse_secrets(content: bytes) -> tuple[bytes, ...]:
    """The values in a secret's file, a line each; the first signs.  Raises `ValueError`, without showing any of them.

    An empty value would let in any client, so it is refused like a missing one.
    """
    values = tuple(line.strip() for line in content.split(b"\n") if line.strip()) or (b"",)
    if len(values) > SECRETS_MOST:
        raise ValueError(f"must hold at most {SECRETS_MOST} secrets, a line each, not {len(values)}")
    short = min(len(value) for value in values)
    if short < SECRET_LEAST:
        raise ValueError(f"must hold at least {SECRET_LEAST} bytes, not {short}")
    return tuple(dict.fromkeys(values))


def worker_secrets(values: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same values.  Raises `ValueError` when one of them is a client's key, by which no worker can prove itself."""
    for value in values:
        _authority_key(value, Purpose.PEER)
    return values


def fingerprint(secret: bytes) -> str:
    """16 hexadecimal digits that name a secret in logs and answers, and do not give it away."""
    key = _KEY.fullmatch(secret)
    return key[1].decode() if key is not None else _derive(secret, "fingerprint", 8).hex()


def internal_key(secret: bytes) -> bytes:
    """The line of a secret's file for a client that may order moves, and not act as a worker."""
    return f"internal-key:{fingerprint(secret)}:{_authority_key(secret, Purpose.INTERNAL).hex()}".encode()


def _authority_key(secret: bytes, purpose: Purpose) -> bytes:
    """The private key of an authority.  Raises `ValueError` for another purpose than that of a key's line."""
    key = _KEY.fullmatch(secret)
    if key is None:
        return _derive(secret, f"authority {purpose}", 32)
    if purpose is not Purpose.INTERNAL:
        raise ValueError("holds the key of a client of /internal/v1, and not the cluster's secret that a worker needs")
    return bytes.fromhex(key[2].decode())


def peer_name(incarnation: str) -> str:
    """The name that a worker's certificate has towards its peers."""
    return incarnation.lower() + _PEER_SUFFIX


def purpose_of_name(name: str) -> Purpose | None:
    """The purpose of a server name (SNI), or None for a name that no server of ours has."""
    if name == INTERNAL_NAME:
        return Purpose.INTERNAL
    return Purpose.PEER if name.lower().endswith(_PEER_SUFFIX) else None


def _derive(secret: bytes, label: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, _SALT, label.encode()).derive(secret)


class Leaf(NamedTuple):
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a context prove itself by this certificate."""
        fd = _private_file(self.certificate + self.key)
        try:
            context.load_cert_chain(f"/proc/self/fd/{fd}" if sys.platform == "linux" else f"/dev/fd/{fd}")
        finally:
            os.close(fd)


def _private_file(content: bytes) -> int:
    """A descriptor of a file that has no name, with ``content``."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    else:  # a system without memfd: a file of this user alone, without its name from the start
        fd, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108 - a descriptor is wanted
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Authority:
    """The certificate authority of one purpose and one value of the secret."""

    def __init__(self, secret: bytes, purpose: Purpose) -> None:
        self.purpose = purpose
        self.fingerprint = fingerprint(secret)
        self._key = Ed25519PrivateKey.from_private_bytes(_authority_key(secret, purpose))
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"threadcluster {purpose} {self.fingerprint}")])

    @cached_property
    def certificate(self) -> str:
        """The authority's own certificate, PEM; the same bytes wherever it is derived."""
        built = (
            self._builder(self._name, self._key.public_key(), serial=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(self._key, None)
        )
        return built.public_bytes(Encoding.PEM).decode()

    def leaf(self, name: str, *, server: bool, client: bool) -> Leaf:
        """A new certificate for ``name``, for the ends of a connection that it may be shown by."""
        key = Ed25519PrivateKey.generate()
        uses = [
            *([ExtendedKeyUsageOID.SERVER_AUTH] if server else []),
            *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else []),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            self._builder(subject, key.public_key(), serial=x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(self._key, None)
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Leaf(built.public_bytes(Encoding.PEM), pem)

    def _builder(self, subject: x509.Name, key: Ed25519PublicKey, *, serial: int) -> x509.CertificateBuilder:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(issuer_id, critical=False)
        )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class PurposeContext(ssl.SSLContext):
    """A context that proves one purpose, and believes only that purpose's authorities."""

    purpose: Purpose
    signed_by: str
    """The fingerprint of the secret that its certificate was made with."""


def make_context(
    protocol: int, authorities: Sequence[Authority], name: str, *, server: bool, client: bool
) -> PurposeContext:
    """A context with a new certificate by the first of a purpose's ``authorities``, believing all of them."""
    context = PurposeContext(protocol)
    context.purpose, context.signed_by = authorities[0].purpose, authorities[0].fingerprint
    harden(context)
    context.load_verify_locations(cadata="".join(each.certificate for each in authorities))
    authorities[0].leaf(name, server=server, client=client).load_into(context)
    return context


def harden(context: ssl.SSLContext) -> None:
    """TLS 1.3 alone, and a certificate from the other side that is verified strictly."""
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT


@lru_cache(maxsize=_CONTEXTS_KEPT)
def internal_client_context(secrets: tuple[bytes, ...]) -> PurposeContext:
    """The context of a client of ``/internal/v1``; ask for the server name `INTERNAL_NAME`.

    The same context for the same secrets, so that connections may be kept open.
    """
    authorities = [Authority(secret, Purpose.INTERNAL) for secret in secrets]
    return make_context(ssl.PROTOCOL_TLS_CLIENT, authorities, _INTERNAL_CLIENT, server=False, client=True)


def internal_client_leaf(secrets: Sequence[bytes]) -> tuple[str, Leaf]:
    """The authorities of ``/internal/v1`` and a client's certificate, PEM, for other programs (``curl``)."""
    authorities = [Authority(secret, Purpose.INTERNAL) for secret in secrets]
    leaf = authorities[0].leaf(_INTERNAL_CLIENT, server=False, client=True)
    return "".join(each.certificate for each in authorities), leaf


def issuer_of(connection: "ssl.SSLObject | ssl.SSLSocket") -> str:
    """The fingerprint of the secret that the other side's certificate was made with; empty when there is none."""
    issuer: Any = (connection.getpeercert() or {}).get("issuer", ())
    names = [str(value) for part in issuer for key, value in part if key == "commonName"]
    return names[0].rpartition(" ")[2] if names else ""
