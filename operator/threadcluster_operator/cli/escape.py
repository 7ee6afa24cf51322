"""Texts of other people on a terminal: no character of them moves the cursor, changes a title or turns the line around."""

import unicodedata
from typing import Final

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that a terminal obeys instead of showing, bidirectional controls among them."""


def escaped(text: str) -> str:
    r"""The text with such characters as ``\u001b`` and ``\u202e``; a backslash of its own is doubled, so that none is feigned."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
