"""Checks the project's language: plain technical English in comments, docstrings, strings, identifiers and documents.

Counts words that stand for people, rooms or fairy tales where a component, a process or data is meant; sentences that
begin with Who, What or Within this; and subjects of new commits over 72 characters.  CONTRIBUTING.md has the rules.
Exit status 1 when anything is found.

    python tools/check_language.py            the whole project
    python tools/check_language.py docs       files whose path begins so
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
WORDS: Final = (
    *("whoever", "nobody", "somebody", "everybody", "told", "said", "anew", "for ever", "so long", "so many", "stands"),
    *("comes to nothing", "dearer", "door", "bell", "gift", "heirs", "house", "room", "book", "home"),
)
"""Whole words, in any case, singular and plural."""
EXCEPTIONS: Final = {
    ("tools/check_language.py", ""): "it names the words",
    ("CONTRIBUTING.md", ""): "it names the words",
    ("tests/operator/cli/kubernetes/test_target.py", "home"): "the environment variable HOME",
    ("tests/operator/cli/kubernetes/test_status.py", "home"): "the environment variable HOME",
    ("tests/operator/cli/kubernetes/test_console.py", "home"): "the environment variable HOME",
    ("tests/operator/cli/test_mistakes.py", "home"): "the environment variable HOME",
    ("tests/operator/cli/test_target.py", "home"): "the environment variable HOME",
    ("operator/threadcluster_operator/local/postgres.py", "nobody"): "the user of that name",
    ("tests/e2e/node/pooler.py", "nobody"): "the user of that name",
}
"""Reasons, by path and word; an empty word is every word of that file."""
SUBJECT_MOST: Final = 72
SUBJECTS_SINCE: Final = "2026-11-29T05:15:00Z"
"""Commits of before are as they are."""

_DOCUMENTS: Final = (".md", ".yaml", ".yml", ".toml", ".sql", ".html")
_WORD: Final = re.compile(
    r"(?<![\w`/.-])(" + "|".join(word.replace(" ", r"\s+") for word in WORDS) + r")s?(?![\w`/-])", re.I
)
_BEGINNING: Final = re.compile(r"(?:^|[.!:;]\s+|\n\s*\n\s*|^[-*|]\s+)(Who|What|Within this)\b([^.?!]*[.?!]?)")
_QUOTED: Final = re.compile(r"`[^`]*`|\{[^{}]*\}")


class Finding(NamedTuple):
    """One place, and what was found there."""

    path: str
    line: int
    what: str


def _allowed(path: str, word: str) -> bool:
    return (path, "") in EXCEPTIONS or (path, word.lower()) in EXCEPTIONS


def _in_prose(path: str, line: int, text: str) -> Iterator[Finding]:
    """Words and beginnings of sentences in one comment, string or document."""
    plain = _QUOTED.sub(lambda found: " " * len(found.group()), text)
    for found in _WORD.finditer(plain):
        if not _allowed(path, found.group(1)):
            yield Finding(path, line + text.count("\n", 0, found.start()), f"the word {found.group()!r}")
    for found in _BEGINNING.finditer(plain):
        if not found.group(2).rstrip().endswith("?") and not _allowed(path, found.group(1)):
            at = line + text.count("\n", 0, found.start(1))
            yield Finding(path, at, f"a sentence that begins with {found.group(1)!r}")


def _identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The names that a module defines, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def _words_of(identifier: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", identifier).replace("_", " ").strip()


def check_python(path: str, text: str) -> Iterator[Finding]:
    """Findings in a module's comments, strings and the names that it defines."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            prose = token.string.lstrip("#rRbBfFuU").strip("\"'").strip()
            skipped = token.string.find(prose[:20]) if prose else 0
            yield from _in_prose(path, token.start[0] + token.string.count("\n", 0, max(0, skipped)), prose)
    for line, identifier in _identifiers(ast.parse(text)):
        for found in _WORD.finditer(_words_of(identifier)):
            if not _allowed(path, found.group(1)):
                yield Finding(path, line, f"the word {found.group()!r} in the name {identifier}")


def check_document(path: str, text: str) -> Iterator[Finding]:
    """Findings in a document; its blocks of code count as well, for people read them."""
    for number, line in enumerate(text.splitlines(), 1):
        yield from _in_prose(path, number, line)


def check_subjects() -> Iterator[Finding]:
    """Subjects of new commits that are too long."""
    listed = subprocess.run(
        ["git", "log", f"--since={SUBJECTS_SINCE}", "--no-merges", "--format=%h%x09%s"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        commit, _, subject = line.partition("\t")
        if len(subject) > SUBJECT_MOST:
            yield Finding(f"commit {commit}", 0, f"a subject of {len(subject)} characters; {SUBJECT_MOST} at most")


def _files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if not path.startswith((".github/", "requirements"))]


def check(beginnings: tuple[str, ...] = ("",)) -> list[Finding]:
    """Everything that is found in the files whose path begins so, and in the commits."""
    found: list[Finding] = []
    for path in _files():
        if not path.startswith(beginnings):
            continue
        if path.endswith(".py"):
            found += check_python(path, (ROOT / path).read_text())
        elif path.endswith(_DOCUMENTS) or Path(path).name == "Makefile":
            found += check_document(path, (ROOT / path).read_text())
    return found + list(check_subjects())


def main() -> int:
    """Print the findings; the exit status."""
    findings = check(tuple(sys.argv[1:]) or ("",))
    for path, line, what in findings:
        print(f"{path}:{line}: {what}")
    print(f"language: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
