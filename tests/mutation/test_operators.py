"""The mutants of a source text, and how they are planted and identified."""

from types import CodeType

from tests.mutation.operators import mutants, texts
from tests.mutation.results import Equivalent, Kept, changed, keys_of, mark_of, score
from tests.mutation.session import KILLED, SURVIVED

SOURCE = '''
"""A module."""
LIMIT_S: Final = 0.5

def judge(age: int, names: list[str]) -> bool:
    """Not this text."""
    assert age > 0
    if names:
        return not age
    for name in names:
        if name in ("", "b") and age + 1 < 3:
            continue
        note(f"{name} is late")
    return any(names)
'''


def test_every_decision_of_a_function_is_changed() -> None:
    """Comparisons, conditions, numbers, texts, calls; neither docstrings nor assertions nor annotations."""
    found = mutants(SOURCE, "module.py")
    assert sorted(keys_of(found)) == sorted(
        [
            "judge: names → not names",
            "judge: not age → age",
            "judge: name in ('', 'b') and age + 1 < 3 → name in ('', 'b') or age + 1 < 3",
            "judge: name in ('', 'b') and age + 1 < 3 → not (name in ('', 'b') and age + 1 < 3)",
            "judge: name in ('', 'b') → name not in ('', 'b')",
            "judge: '' → 'mutant'",
            "judge: 'b' → ''",
            "judge: age + 1 < 3 → age + 1 <= 3",
            "judge: age + 1 → age - 1",
            "judge: 1 → 2",
            "judge: 3 → 4",
            "judge: continue → break",
            "judge: note(f'{name} is late') → pass",
            "judge: f'{name} is late' → ''",
            "judge: return any(names) → return not any(names)",
            "judge: any(names) → all(names)",
            "LIMIT_S: LIMIT_S = 0.5 → LIMIT_S = 1.0",
        ]
    )


def test_a_mutant_is_compiled_with_its_change_alone() -> None:
    """The next one begins from the unchanged text again."""
    for mutant in mutants(SOURCE, "module.py"):
        if mutant.number is None:
            names = {"Final": object, "note": lambda _: None}
            exec(mutant.compiled(), names)
            assert callable(names["judge"])
    unchanged: dict[str, object] = {"Final": object}
    exec(SOURCE, unchanged)


def test_the_same_change_twice_in_a_function_is_numbered() -> None:
    """So that each can be found in the list of equivalent mutants."""
    found = mutants("def f(a: int) -> int:\n    return a + 1 if a > 1 else 0\n", "module.py")
    assert [key for key in keys_of(found) if "1 → 2" in key] == ["f: 1 → 2", "f: 1 → 2 (2)"]


MANY_LINES = """
def waits(reason: str) -> bool:
    return reason not in (
        "",
        "ContainerCreating",
    )
"""


def test_a_change_without_a_line_of_its_own_is_reached_by_its_statement() -> None:
    """A tuple of constants is one constant of its statement: no test ever reaches the lines of its items."""
    [function] = [each for each in compile(MANY_LINES, "module.py", "exec").co_consts if isinstance(each, CodeType)]
    traced = {line for _, _, line in function.co_lines()}
    text = next(each for each in mutants(MANY_LINES, "module.py") if each.before == "'ContainerCreating'")
    assert (text.lines, text.statement) == (range(5, 6), range(3, 7))
    assert traced.isdisjoint(text.lines)
    assert not traced.isdisjoint(text.statement)


def test_a_score_is_of_the_mutants_that_change_something() -> None:
    """Where all of them are equivalent nothing is left to kill."""
    killed, survived = {"f: 1 → 2": KILLED}, {"f: 2 → 3": SURVIVED}
    assert score(Kept("", killed | survived), {}).percent == 50.0
    assert score(Kept("", killed | survived), {"f: 2 → 3": "why"}).percent == 100.0
    assert score(Kept("", survived), {"f: 2 → 3": "why"}).percent == 100.0
    assert score(Kept("", survived), {}).percent == 0.0


def test_an_equivalent_mutant_is_judged_again_when_its_function_changes() -> None:
    """Wherever in the function; its docstring decides nothing, nor does another function."""
    entry = Equivalent("module.py", "judge", "1 → 2", "why", mark_of(texts(SOURCE)["judge"]))
    limit = Equivalent("module.py", "LIMIT_S", "LIMIT_S = 0.5 → LIMIT_S = 1.0", "why", mark_of("LIMIT_S: Final = 0.5"))
    assert changed(SOURCE, [entry, limit]) == {}
    other = SOURCE.replace("Not this text.", "Another text.").replace(
        "    for name", "    # Each of them.\n    for name"
    )
    assert changed(other, [entry]) == {}
    other = SOURCE.replace("0.5", "0.7")
    assert changed(other, [entry, limit]) == {limit.key: mark_of("LIMIT_S: Final = 0.7")}
    assert list(changed(SOURCE.replace("is late", "is early"), [entry, limit])) == [entry.key]
    assert changed("", [entry]) == {entry.key: "none"}
