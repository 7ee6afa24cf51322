"""Documents: what the gateway serves about itself, made once at start."""

from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.docs import docs_page, start_page, swagger_ui
from shard_worker.gateway.public.openapi import document, openapi_json
from shard_worker.gateway.public.routes import (
    COMMANDS,
    DOCS,
    DOCS_SCRIPT,
    DOCS_STYLE,
    DOCUMENTS,
    OF_THE_READ_MODEL,
    OPENAPI,
    PARTS_OF_DOCS,
    QUERIES,
    START,
    STREAMS,
    DocumentRoute,
    Route,
)


def routes_of(options: GatewayOptions, *, read_model: bool, streams: bool) -> tuple[Route, ...]:
    """The routes that exist under these options; ``read_model`` and ``streams`` say whether there are such."""
    return (
        *COMMANDS,
        *QUERIES,
        *(OF_THE_READ_MODEL if read_model else ()),
        *(STREAMS if streams else ()),
        *((*DOCUMENTS, *PARTS_OF_DOCS) if options.documentation else ()),
        *((START,) if options.console_url else ()),
    )


def documents_of(options: GatewayOptions) -> dict[DocumentRoute, bytes]:
    """The content of every document route."""
    found: dict[DocumentRoute, bytes] = {}
    if options.documentation:
        found = {
            OPENAPI: openapi_json(),
            DOCS: docs_page(document()),
            DOCS_SCRIPT: swagger_ui("swagger-ui-bundle.js"),
            DOCS_STYLE: swagger_ui("swagger-ui.css"),
        }
    if options.console_url:
        found[START] = start_page(options.console_url, documentation=options.documentation)
    return found
