"""The page at ``/docs``: the OpenAPI document for people, with a form to try each operation; and the page at ``/``.

Swagger UI, of the pinned version in ``swagger_ui``, shows it; all of it comes from this port, so that it works where the gateway
does.  Its script may come from this origin alone, and ours runs by its hash; only this page allows inline styles and images in
addresses, which Swagger UI needs.  A browser without scripts shows the operations as a list that is made here.
"""

import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, Final

SWAGGER_UI: Final = "5.35.0"
"""Part of the addresses: browsers keep the files for as long as they like."""
SCRIPT_PATH: Final = f"/docs/swagger-ui-bundle-{SWAGGER_UI}.js"
STYLE_PATH: Final = f"/docs/swagger-ui-{SWAGGER_UI}.css"

_PUBLIC: Final = files("shard_worker.gateway.public")
_SCRIPT: Final = _PUBLIC.joinpath("docs.js").read_text()
_STYLE: Final = _PUBLIC.joinpath("docs.css").read_text()
_CODE: Final = re.compile(r"`([^`]+)`")
_BOLD: Final = re.compile(r"\*\*(.+?)\*\*")
_METHODS: Final = ("get", "post")
_BOUNDS: Final = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum")

Node = dict[str, Any]  # Any: a piece of the OpenAPI document


def docs_page(document: Node) -> bytes:
    """The page that shows this document."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(document['info']['title'])} API</title>"
        f'<link rel="stylesheet" href="{STYLE_PATH[1:]}"><style>{_STYLE}</style>'
        f'<div id="ui"></div><noscript>{"".join(_plain_list(document))}</noscript>'
        f'<script src="{SCRIPT_PATH[1:]}"></script><script>{_SCRIPT}</script></html>'
    ).encode()


def swagger_ui(name: str) -> bytes:
    """A file of Swagger UI, compressed."""
    return _PUBLIC.joinpath("swagger_ui", f"{name}.gz").read_bytes()


def _plain_list(document: Node) -> Iterator[str]:
    """Every operation with its parameters, its body and its answers."""
    yield f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>"
    yield '<p><a href="openapi.json">openapi.json</a></p>'
    yield rendered(document["info"]["description"])
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield from _operation(document, f"{method.upper()} {path}", methods[method])


def _operation(document: Node, title: str, operation: Node) -> Iterator[str]:
    yield f"<h2><code>{escape(title)}</code></h2><p>{_inline(operation['summary'])}</p>{rendered(operation['description'])}<dl>"
    for parameter in operation.get("parameters", ()):
        parameter = _resolved(document, parameter)
        yield _field(f"{parameter['name']} ({parameter['in']})", parameter["schema"], parameter.get("description", ""))
    if "requestBody" in operation:
        body = operation["requestBody"]
        schema = _resolved(document, body["content"]["application/json"]["schema"])
        for name, field in schema["properties"].items():
            yield _field(f"{name} (body)", field, field.get("description", ""))
        yield f"<dt>Body</dt><dd>{_inline(body['description'])}</dd>"
    for status, answer in operation["responses"].items():
        yield f"<dt>{escape(status)}</dt><dd>{rendered(answer['description'])}</dd>"
    yield "</dl>"


def _resolved(document: Node, node: Node) -> Node:
    if "$ref" not in node:
        return node
    found: Any = document
    for key in node["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    resolved: Node = found
    return resolved


def _field(name: str, schema: Node, description: str) -> str:
    bounds = ", ".join([f"{key} {schema[key]}" for key in _BOUNDS if key in schema])
    return f"<dt><code>{escape(name)}</code> {escape(bounds)}</dt><dd>{_inline(description)}</dd>"


def rendered(markdown: str) -> str:
    """The markdown of our descriptions as HTML: paragraphs, lists, bold words and code."""
    return "".join([piece for block in markdown.strip().split("\n\n") for piece in _block(block)])


def _block(block: str) -> Iterator[str]:
    """A paragraph, a list, or one followed by the other."""
    text, *items = re.split(r"^- ", block, flags=re.MULTILINE)
    if text:
        yield f"<p>{_inline(text)}</p>"
    if items:
        yield "<ul>" + "".join([f"<li>{_inline(item)}</li>" for item in items]) + "</ul>"


def _inline(text: str) -> str:
    return _BOLD.sub(r"<b>\1</b>", _CODE.sub(r"<code>\1</code>", escape(text)))


def _policy() -> bytes:
    return (
        b"default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'sha256-%b'; img-src data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        % b64encode(sha256(_SCRIPT.encode()).digest())
    )


_NO_SNIFFING: Final = b"X-Content-Type-Options: nosniff\r\n"
_KEPT: Final = b"Content-Encoding: gzip\r\nCache-Control: public, max-age=31536000, immutable\r\n" + _NO_SNIFFING
DOCS_FIELDS: Final = (
    b"Content-Type: text/html; charset=utf-8\r\nContent-Security-Policy: %b\r\n" % _policy() + _NO_SNIFFING
)
"""The header fields of the page's answer."""
SCRIPT_FIELDS: Final = b"Content-Type: text/javascript; charset=utf-8\r\n" + _KEPT
STYLE_FIELDS: Final = b"Content-Type: text/css; charset=utf-8\r\n" + _KEPT

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
