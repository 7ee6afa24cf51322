"""JSON of bounded depth.

The API server takes objects that are nested 10,000 deep where a schema is open; no JSON decoder of Python reads more than
some 900, and code that walks an object recursively reads less.  One object of one tenant must not end the watch of all.
"""

import re
from typing import Any, Final

DEPTH: Final = 64
"""Maximum depth of a document; twice that of any object that a schema bounds, its managed fields included."""

_MARK: Final = "!nested-too-deep"
"""The only name in the object that replaces a value; no schema has a field of this name."""
_CUT: Final = b'{"%s":true}' % _MARK.encode()

_STRUCTURE: Final = bytes(each for each in range(256) if each not in b'{}[]"')
"""All bytes but those from which the depth follows."""
_TEXT: Final = re.compile(rb'"[^"]*"')
_EMPTY: Final = re.compile(rb"\{\}|\[\]")
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)


def is_deep(document: bytes) -> bool:
    """Whether a JSON document is nested deeper than `DEPTH`.  It walks nothing: each step is one pass over the bytes."""
    if document.count(b"{") + document.count(b"[") <= DEPTH:
        return False
    # Without escaped characters each quote begins or ends a text.  Two quotes side by side may go, whatever they are:
    # each of the others begins or ends what it did.  Few texts are left then, those with brackets in them.
    plain = document.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _STRUCTURE)
    brackets = _TEXT.sub(b"", plain.replace(b'""', b""))
    # The same as below and much faster, but of two levels it may take both: what is gone then, is shallow.
    fewer = brackets
    for _ in range(DEPTH // 2):
        fewer = fewer.replace(b"{}", b"").replace(b"[]", b"")
        if not fewer:
            return False
    for _ in range(DEPTH):
        if not brackets:
            return False
        brackets = _EMPTY.sub(b"", brackets)  # of each branch the deepest level
    return bool(brackets)


def flatten(document: bytes) -> bytes:
    """The document with a mark in place of each object and list that is nested deeper than `DEPTH`."""
    kept: list[bytes] = []
    depth = begin = 0
    for token in _TOKEN.finditer(document):
        opens, closes = token[0] in (b"{", b"["), token[0] in (b"}", b"]")
        depth += opens
        if opens and depth == DEPTH + 1:
            kept += [document[begin : token.start()], _CUT]
        elif closes and depth == DEPTH + 1:
            begin = token.end()
        depth -= closes
    return b"".join((*kept, document[begin:]))


def shallow(document: bytes) -> bytes:
    """The document, flattened where it is nested too deep."""
    return flatten(document) if is_deep(document) else document


def path_of_cut(value: Any, path: str = "") -> str | None:  # JSON has no narrower type
    """The path to the first value that `flatten` has replaced; None where there is none.  Only for what is shallow."""
    if isinstance(value, dict):
        if _MARK in value:
            return path
        items = [(f"{path}.{name}", item) for name, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{position}]", item) for position, item in enumerate(value)]
    else:
        return None
    for here, item in items:
        found = path_of_cut(item, here)
        if found is not None:
            return found
    return None
