"""How far a connection to Postgres is encrypted, and whom it believes.

The modes are libpq's that make sense: ``disable``; ``require``, which encrypts and, with a CA file, also asks for a
certificate of that CA, whatever name is on it; ``verify-full``, which asks for the host's name as well, and believes the
system's authorities where no CA file is given.  Without a mode the DSN decides (``sslmode=…``), and without that TLS is
used where the server offers it.  libpq's ``prefer`` is not offered here: it promises nothing.
"""

import ssl
from pathlib import Path
from typing import Literal, NamedTuple

TlsMode = Literal["disable", "require", "verify-full"]


class Tls(NamedTuple):
    """TLS settings of every connection; the CA file is read again for each one, so that it may be renewed."""

    mode: TlsMode | None = None
    ca_file: Path | None = None

    def context(self) -> ssl.SSLContext | bool | None:
        """The value of asyncpg's ``ssl``; None leaves TLS to the DSN.  Raises `OSError` when the CA file is invalid."""
        if self.mode is None:
            return None
        if self.mode == "disable":
            return False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self.mode == "verify-full"
        if self.ca_file is not None:
            context.load_verify_locations(cafile=self.ca_file)
        elif self.mode == "verify-full":
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.verify_mode = ssl.CERT_NONE
        return context


BY_DSN = Tls()
"""As the DSN says."""
