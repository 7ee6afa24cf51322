"""Texts: the check and the normal form of title, remarks and message text.

NFC is the one step whose cost depends on what a text holds.  CPython releases before the fix of the canonical ordering
sort a run of combining characters in quadratic time, so a text is judged by its length and its runs before it is
normalised, and it is normalised once: `unicodedata.normalize` itself begins with the quick check of UAX #15 and gives
a text back unchanged that passes.
"""

import re
from collections.abc import Callable
from typing import Final
from unicodedata import combining, normalize

from pydantic_core import PydanticCustomError

COMBINING_MOST: Final = 30
"""Characters with a non-zero canonical combining class in a row, as sent: the bound of UAX #15's stream-safe format."""
_SHRINKS: Final = 4
"""NFC makes at most four code points one (as in U+1F82), so a longer text is too long whatever it holds."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def has_long_combining_run(text: str) -> bool:
    """Whether more than `COMBINING_MOST` characters in a row have a non-zero canonical combining class.

    Looks at the last character of a window that a long run would fill, and moves the window beyond the first character
    from its end that ends a run; each character is looked at twice at most.
    """
    if not any(map(combining, text[COMBINING_MOST :: COMBINING_MOST + 1])):
        return False
    end = COMBINING_MOST
    while end < len(text):
        at, begin = end, end - COMBINING_MOST
        while at >= begin and combining(text[at]):
            at -= 1
        if at < begin:
            return True
        end = at + COMBINING_MOST + 1
    return False


def checked_text(least: int, most: int) -> Callable[[str], str]:
    """A check of one text that returns its NFC; ``least`` and ``most`` count code points of that."""

    def wrong_length() -> PydanticCustomError:
        return PydanticCustomError(
            "text_length", "must have {least} to {most} characters", {"least": least, "most": most}
        )

    def check(text: str) -> str:
        if not text.isascii():
            if len(text) > most * _SHRINKS:
                raise wrong_length()
            if _SURROGATE.search(text):
                raise PydanticCustomError("text_surrogate", "must not contain lone surrogates")
            if has_long_combining_run(text):
                raise PydanticCustomError(
                    "text_combining",
                    "must not have more than {most} combining characters in a row",
                    {"most": COMBINING_MOST},
                )
            text = normalize("NFC", text)
        if "\0" in text:
            raise PydanticCustomError("text_nul", "must not contain U+0000")
        if not least <= len(text) <= most:
            raise wrong_length()
        return text

    return check
