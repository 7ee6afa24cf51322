"""Docs page."""


def docs_page() -> bytes:
    """The page."""
    return b""
