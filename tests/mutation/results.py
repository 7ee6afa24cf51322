"""The outcomes of the mutants of each file, kept between runs, and the table that is made of them."""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.mutation.operators import Mutant, texts
from tests.mutation.session import KILLED, UNREACHED
from tests.support.pure_modules import ROOT

OUT: Final = ROOT / "build/mutation"
_EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
_TABLE_BEGINS: Final = "<!-- table -->\n"


class Kept(msgspec.Struct):
    """The outcomes for one text of a file."""

    source: str
    """The digest of the file."""
    outcomes: dict[str, str]
    """By the mutant's key; one that is missing was not tried."""


class Score(NamedTuple):
    """The mutants of one file."""

    killed: int
    survived: tuple[str, ...]
    """The keys of those that are not equivalent."""
    unreached: int
    """Of the survivors."""
    equivalent: int

    @property
    def percent(self) -> float:
        """Of the mutants that change something; all, where none does."""
        changing = self.killed + len(self.survived)
        return 100.0 * self.killed / changing if changing else 100.0


def keys_of(found: Sequence[Mutant]) -> list[str]:
    """A key for each mutant of a file; the same change at several places of a function is numbered."""
    seen: Counter[str] = Counter()
    keys = []
    for mutant in found:
        key = f"{mutant.function}: {mutant.description}"
        seen[key] += 1
        keys.append(f"{key} ({seen[key]})" if seen[key] > 1 else key)
    return keys


def load(file: Path, *, fresh: bool) -> Kept:
    """The outcomes of a file as it is: killed mutants; the others are tried again, as the tests may be better now."""
    digest, path = _digest(file), _path(file)
    if not fresh and path.exists():
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        if kept.source == digest:
            return kept
    return Kept(digest, {})


def save(file: Path, kept: Kept) -> None:
    """Keep the outcomes."""
    OUT.mkdir(parents=True, exist_ok=True)
    _path(file).write_bytes(msgspec.json.encode(kept))


class Equivalent(msgspec.Struct, frozen=True):
    """A mutant that changes nothing that can be observed."""

    file: str
    function: str
    change: str
    reason: str
    judged: str
    """`mark_of` the function when the mutant was judged."""

    @property
    def key(self) -> str:
        """The key of the mutant."""
        return f"{self.function}: {self.change}"


def mark_of(text: str) -> str:
    """Eight digits by which a function's text is known again."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def equivalent() -> dict[str, dict[str, Equivalent]]:
    """By file and key, the equivalent mutants."""
    found: dict[str, dict[str, Equivalent]] = {}
    for each in tomllib.loads(_EQUIVALENT.read_text()).get("mutant", []):
        entry = msgspec.convert(each, Equivalent)
        found.setdefault(entry.file, {})[entry.key] = entry
    return found


def changed(source: str, entries: Iterable[Equivalent]) -> dict[str, str]:
    """The keys of the entries whose function is not as it was when they were judged, each with the function's present mark.

    The reason may be wrong by now, and the change may be that of another place in the function.
    """
    marks = {name: mark_of(text) for name, text in texts(source).items()}
    return {each.key: marks.get(each.function, "none") for each in entries if marks.get(each.function) != each.judged}


def score(kept: Kept, reasons: Iterable[str]) -> Score:
    """The score of a file."""
    survivors = [key for key, outcome in kept.outcomes.items() if outcome != KILLED]
    known = set(reasons)
    equal = [key for key in survivors if key in known]
    return Score(
        sum(outcome == KILLED for outcome in kept.outcomes.values()),
        tuple(sorted(set(survivors) - set(equal))),
        sum(kept.outcomes[key] == UNREACHED for key in survivors),
        len(equal),
    )


def unused(kept: Kept, reasons: Iterable[str]) -> list[str]:
    """The entries of equivalent mutants that fit no survivor."""
    survivors = {key for key, outcome in kept.outcomes.items() if outcome != KILLED}
    return sorted(set(reasons) - survivors)


def table(scores: Mapping[Path, Score], bar: Iterable[Path]) -> str:
    """The scores as a table."""
    must = set(bar)
    lines = ["| file | mutants | killed | survived | equivalent | score |", "| --- | --: | --: | --: | --: | --: |"]
    for file, each in scores.items():
        total = each.killed + len(each.survived) + each.equivalent
        shown = f"**{each.percent:.1f} %**" if file in must else f"{each.percent:.1f} %"
        lines.append(f"| `{file}` | {total} | {each.killed} | {len(each.survived)} | {each.equivalent} | {shown} |")
    return "\n".join(lines) + "\n"


def write_docs(text: str) -> None:
    """Put the table at the end of docs/mutation.md."""
    path = ROOT / "docs/mutation.md"
    head, _, _ = path.read_text().partition(_TABLE_BEGINS)
    path.write_text(f"{head}{_TABLE_BEGINS}\n{text}")


def _digest(file: Path) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()


def _path(file: Path) -> Path:
    return OUT / f"{'.'.join(file.with_suffix('').parts)}.json"
