"""`python -m tests.mutation [MODULE …]`: mutate the pure modules, and print what the tests do not notice."""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.mutation import results
from tests.mutation.operators import mutants
from tests.mutation.session import KILLED, Session
from tests.support.pure_modules import ROOT, files_of, listed

BAR_PERCENT: Final = 95.0
_PROGRESS_S: Final = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run; 1 when a module that must be well tested is not."""
    parser = argparse.ArgumentParser(prog="make mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="modules or packages [default: all pure modules]")
    parser.add_argument("--fresh", action="store_true", help="try also what was killed before")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/mutation.md")
    parser.add_argument(
        "--tests",
        action="append",
        help="run only pure tests whose path begins so: quicker; others may kill what survives",
    )
    given = parser.parse_args(arguments)
    tests = [test for begin in given.tests or ("",) for test in _pure(begin)]
    if not tests:
        parser.error(f"--tests {' '.join(given.tests)}: no pure test begins so")
    bar = files_of(listed("well_tested_modules"))
    every = files_of(given.modules or listed("pure_modules"))
    files = [file for file in bar if file in every] + [file for file in every if file not in bar]
    session = Session(
        [ROOT / file for file in files_of(listed("pure_modules"))],
        results.OUT / f"reach-{_digest(tests)}.json",
        lambda made: _run(made, files, fresh=given.fresh),
    )
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutation"]
    code = pytest.main([*options, *tests], plugins=[session])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(code)
    return _report(files, bar, write_docs=given.write_docs)


def _pure(begin: str) -> list[str]:
    """The pure tests whose path begins so; or a file within a folder of them."""
    pure = listed("pure_tests")
    return [test for test in pure if test.startswith(begin)] or [begin for test in pure if begin.startswith(f"{test}/")]


def _digest(tests: Sequence[str]) -> str:
    """Of all that decides which lines a test reaches."""
    found = hashlib.sha256(repr(tests).encode())
    for folder in ("shard_worker", "operator", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _run(session: Session, files: Sequence[Path], *, fresh: bool) -> None:
    for file in files:
        path = ROOT / file
        found = mutants(path.read_text(), str(path))
        keys = results.keys_of(found)
        kept = results.load(file, fresh=fresh)
        kept.outcomes = {key: kept.outcomes[key] for key in keys if key in kept.outcomes}
        began = shown = time.monotonic()
        for number, (key, mutant) in enumerate(zip(keys, found, strict=True)):
            if kept.outcomes.get(key) == KILLED:
                continue
            kept.outcomes[key] = session.outcome(path, mutant)
            if time.monotonic() - shown > _PROGRESS_S:
                shown = time.monotonic()
                results.save(file, kept)
                print(f"mutation: {file}: {number + 1} of {len(found)}", flush=True)
        results.save(file, kept)
        killed = sum(outcome == KILLED for outcome in kept.outcomes.values())
        print(f"mutation: {file}: {killed} of {len(found)} killed, {time.monotonic() - began:.0f} s", flush=True)


def _report(files: Sequence[Path], bar: Sequence[Path], *, write_docs: bool) -> int:
    reasons = results.equivalent()
    scores, failures = {}, []
    for file in files:
        kept, known = results.load(file, fresh=False), reasons.get(str(file), {})
        again = results.changed((ROOT / file).read_text(), known.values())
        failures += [f"{file}: judge again, {mark} is its text now: {each}" for each, mark in again.items()]
        if not kept.outcomes:
            continue  # nothing of it can be mutated
        scores[file] = score = results.score(kept, known)
        for each in score.survived:
            print(f"survived: {file}: {each}")
        failures += [f"{file}: no such survivor: {each}" for each in results.unused(kept, known)]
        if file in bar and score.percent < BAR_PERCENT:
            failures.append(f"{file}: {score.percent:.1f} % killed, less than {BAR_PERCENT:g} %")
    text = results.table(scores, bar)
    print(f"\n{text}", *failures, sep="\n")
    if write_docs:
        results.write_docs(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
