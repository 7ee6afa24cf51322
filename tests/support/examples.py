"""How many examples a property is tried with."""

from typing import Final

from hypothesis import settings

_USUAL: Final = 100
"""Hypothesis' own number, which the gate's profile keeps."""


def examples(number: int) -> settings:
    """Settings of a property that the gate tries with this number of examples; another profile in proportion."""
    return settings(max_examples=max(1, number * settings().max_examples // _USUAL))
