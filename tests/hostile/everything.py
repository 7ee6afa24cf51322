"""The whole corpus, in the order in which it is played."""

from typing import Final

from tests.hostile import bodies, clients, frames, heads, pages
from tests.hostile.inputs import HostileInput, corpus

CORPUS: Final[tuple[HostileInput, ...]] = corpus(
    heads.INPUTS, bodies.INPUTS, frames.INPUTS, clients.INPUTS, pages.INPUTS
)
