"""The page at ``/docs``: the OpenAPI document for people, with a form to try each operation; and the page at ``/``.

One file of ours without anything from the internet, so that it works where the gateway does.  A ready-made UI would be
a megabyte of other people's script for the same list of fourteen operations.  The page's style and script run by their
hashes, so that whatever else finds its way into the page does not.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

_INLINE: Final = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


def docs_page() -> bytes:
    """The page."""
    return files(__package__).joinpath("docs.html").read_bytes()


def _content_security_policy(page: bytes) -> bytes:
    """The policy under which the inline blocks of ``page`` run, and nothing else does."""
    sources = {kind: b"'sha256-%b'" % b64encode(sha256(text).digest()) for kind, text in _INLINE.findall(page)}
    return (
        b"default-src 'none'; style-src %b; script-src %b; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'" % (sources[b"style"], sources[b"script"])
    )


DOCS_FIELDS: Final = (
    b"Content-Type: text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: %b\r\n"
    % _content_security_policy(docs_page())
)
"""The header fields of the page's answer."""

START_FIELDS: Final = (
    b"Content-Type: text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    b"Content-Security-Policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
)
"""The header fields of the answer with `start_page`."""


def start_page(console_url: str, *, documentation: bool) -> bytes:
    """The page at ``/`` of a local cluster: where the console is, and the API.

    It has no token: the page at the console's address asks for the address that ``threadcluster`` printed.
    """
    api = '<p>API: <a href="/docs">/docs</a></p>\n' if documentation else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ThreadCluster</title>
<h1>ThreadCluster</h1>
<p>Console: <a href="{console_url}">{console_url}</a>; <code>threadcluster console</code> prints the address with its token.</p>
{api}</html>
""".encode()
