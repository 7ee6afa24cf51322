"""Documents: what the gateway serves about itself, made once at start."""

from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.docs import docs_page
from shard_worker.gateway.public.openapi import openapi_json
from shard_worker.gateway.public.routes import COMMANDS, DOCS, DOCUMENTS, OPENAPI, QUERIES, DocumentRoute, Route


def routes_of(options: GatewayOptions) -> tuple[Route, ...]:
    """The routes that exist under these options."""
    return (*COMMANDS, *QUERIES, *DOCUMENTS) if options.documentation else (*COMMANDS, *QUERIES)


def documents_of(options: GatewayOptions) -> dict[DocumentRoute, bytes]:
    """The content of every document route."""
    return {OPENAPI: openapi_json(), DOCS: docs_page()} if options.documentation else {}
