"""The page at ``/docs``: the OpenAPI document for people, with a form to try each operation.

One file of ours without anything from the internet, so that it works where the gateway does.  A ready-made UI would be
a megabyte of other people's script for the same list of fourteen operations.
"""

from importlib.resources import files


def docs_page() -> bytes:
    """The page."""
    return files(__package__).joinpath("docs_page.html").read_bytes()
