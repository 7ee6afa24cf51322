"""Texts of other people on a terminal."""

import pytest
from threadcluster_operator.cli.escape import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – é 漢 🙂", "plain – é 漢 🙂"),
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("a\nb\tc\r", "a\\u000ab\\u0009c\\u000d"),
        ("\u202eabc\u2066\u200f", "\\u202eabc\\u2066\\u200f"),
        ("\u009b31m\u2028\u200b", "\\u009b31m\\u2028\\u200b"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("\\u202e", "\\\\u202e"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str) -> None:
    """And what it shows stays; an escape that was written as such differs from one that was made."""
    assert escaped(text) == shown
