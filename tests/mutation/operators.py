"""The mutants of a source text: each changes one expression or statement of a function, or one number of the module.

A mutant is identified by its function and by the texts before and after, never by a line or a count, so that its description
stays while the rest of the file changes.  Annotations, docstrings and assertions decide nothing and are left alone.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Final, NamedTuple

_COMPARISONS: Final[Mapping[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Final[Mapping[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}

_Place = Callable[[ast.AST], None]


class Mutant(NamedTuple):
    """One change."""

    function: str
    """The qualified name of the outermost function; the name of a constant of the module."""
    lines: range
    """Of the changed expression or statement."""
    statement: range
    """The lines of the statement around it: a text among constants is compiled into their tuple, and has no line of its own."""
    before: str
    after: str
    compiled: Callable[[], CodeType]
    """The whole module with the change."""
    number: int | float | None = None
    """The changed number of a constant; None for a change of a function."""

    @property
    def description(self) -> str:
        """The change, as the list of equivalent mutants and the reports have it."""
        return f"{self.before} → {self.after}"


class _Change(NamedTuple):
    function: str
    node: ast.expr | ast.stmt
    place: _Place
    new: ast.expr | ast.stmt


def mutants(source: str, filename: str) -> list[Mutant]:
    """All mutants of a module's source."""
    tree = ast.parse(source)
    spans = [_lines(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    found = []
    for change in _changes(tree):
        node, new = change.node, change.new
        before, after = ast.unparse(node), ast.unparse(new)
        if before != after:
            ast.fix_missing_locations(ast.copy_location(new, node))
            lines = _lines(node)
            statement = min((span for span in spans if lines[0] in span and lines[-1] in span), key=len)
            compiled = _compiler(tree, change, filename)
            found.append(Mutant(change.function, lines, statement, before, after, compiled))
    return found + list(_constants(tree, filename))


def texts(source: str) -> dict[str, str]:
    """The text of each function and named number that mutants are made of, by the name that the mutants have.

    Without its docstring, its comments and its indentation; the same for every release of Python.
    """
    found, all_lines = {}, source.splitlines()
    for name, node in _named(ast.parse(source)):
        numbers = set(_lines(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            numbers -= set(_lines(node.body[0]))
        kept = [all_lines[number - 1].strip() for number in sorted(numbers)]
        found[name] = "\n".join(line for line in kept if line and not line.startswith("#"))
    return found


def _lines(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _compiler(tree: ast.Module, change: _Change, filename: str) -> Callable[[], CodeType]:
    def compiled() -> CodeType:
        change.place(change.new)
        try:
            return compile(tree, filename, "exec")
        finally:
            change.place(change.node)

    return compiled


def _constants(tree: ast.Module, filename: str) -> Iterator[Mutant]:
    """Each number that the module gives a name."""
    for each in tree.body:
        match each:
            case ast.AnnAssign(ast.Name(name), _, ast.Constant(int() | float() as value)) if value not in (True, False):
                yield Mutant(
                    name,
                    _lines(each),
                    _lines(each),
                    f"{name} = {value}",
                    f"{name} = {value * 2}",
                    lambda: compile(tree, filename, "exec"),
                    value * 2,
                )
            case _:
                pass


def _changes(tree: ast.Module) -> Iterator[_Change]:
    for name, node in _named(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _within_function(node, name)


def _named(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """The functions, methods and named values of a module, by their names."""
    for node in tree.body:
        match node:
            case ast.ClassDef(class_name):
                for child in node.body:
                    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield f"{class_name}.{child.name}", child
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.AnnAssign(ast.Name(name)):
                yield name, node
            case _:
                pass


def _within_function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[_Change]:
    answers_bool = isinstance(node.returns, ast.Name) and node.returns.id == "bool"
    for statement, place in _children(node):
        yield from _within(statement, place, name, answers_bool=answers_bool)


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, _Place]]:
    """The parts of a node that decide something, each with what replaces it."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "pattern", "type_params", "ctx", "op", "ops"):
            continue
        if field == "args" and not isinstance(node, ast.Call):
            continue
        if isinstance(value, ast.AST):
            yield value, _setter(node, field)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                if isinstance(child, ast.AST):
                    yield child, _item_setter(value, index)


def _setter(node: ast.AST, field: str) -> _Place:
    return lambda new: setattr(node, field, new)


def _item_setter(items: list[ast.AST], index: int) -> _Place:
    return lambda new: items.__setitem__(index, new)


def _within(node: ast.AST, place: _Place, function: str, *, answers_bool: bool) -> Iterator[_Change]:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
        return
    match node:
        case ast.Expr(ast.Call(ast.Name("assert_never"))):  # for the type checker
            return
        case _:
            pass
    if isinstance(node, ast.expr | ast.stmt):
        for new in _replacements(node, answers_bool=answers_bool):
            yield _Change(function, node, place, new)
    if isinstance(node, ast.JoinedStr):
        return
    conditions = _conditions(node)
    for child, child_place in _children(node):
        if isinstance(child, ast.expr) and child in conditions and not isinstance(child, ast.Compare | ast.UnaryOp):
            yield _Change(function, child, child_place, ast.UnaryOp(ast.Not(), child))
        yield from _within(child, child_place, function, answers_bool=answers_bool)


def _conditions(node: ast.AST) -> list[ast.expr]:
    """The expressions that decide a branch; a comparison and a ``not`` are changed as such."""
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test):
            return [test]
        case ast.comprehension(ifs=ifs):
            return ifs
        case _:
            return []


def _replacements(node: ast.expr | ast.stmt, *, answers_bool: bool) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return _other_constants(node)
    if isinstance(node, ast.expr):
        return _other_expressions(node)
    return _other_statements(node, answers_bool=answers_bool)


def _other_constants(node: ast.Constant | ast.JoinedStr) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(str() as value):
            yield ast.Constant("" if value else "mutant")
        case ast.JoinedStr():
            yield ast.Constant("")
        case _:
            pass


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, operators, rights):
            for index, operator in enumerate(operators):
                other: list[ast.cmpop] = [*operators[:index], _COMPARISONS[type(operator)](), *operators[index + 1 :]]
                yield ast.Compare(left, other, rights)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(operator)](), right)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _CALLS:
            yield ast.Call(ast.Name(_CALLS[name], ast.Load()), arguments, keywords)
        case _:
            pass


def _other_statements(node: ast.stmt, *, answers_bool: bool) -> Iterator[ast.stmt]:
    match node:
        case ast.AugAssign(target, operator, value) if type(operator) in _ARITHMETIC:
            yield ast.AugAssign(target, _ARITHMETIC[type(operator)](), value)
        case ast.Continue():
            yield ast.Break()
        case ast.Expr(ast.Call() | ast.YieldFrom()) | ast.Raise():
            yield ast.Pass()
        case ast.Return(ast.Call() | ast.Name() | ast.Attribute() | ast.BoolOp() as value) if answers_bool:
            yield ast.Return(ast.UnaryOp(ast.Not(), value))
        case _:
            pass
