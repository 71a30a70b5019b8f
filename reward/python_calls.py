"""Tool calls written as Python: `[f(a=1, b="x"), g.h()]`. Nothing that a model writes is evaluated.

They mean what BFCL's decoder for prompted models (bfcl-eval 2025.6.16) makes of them, its oddities
included: positional arguments are dropped, every sign in front of a number negates it, names stand
for themselves, and a nested call without arguments by name is its own text. The one difference: that
decoder gives a binary operator's expression to `eval`. Here operators work on literals only (numbers,
texts, lists, tuples), up to SIZE_LIMIT; anything else in such an expression (names, calls, f-strings, `%`
on a text) makes the reply unreadable.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

SIZE_LIMIT = 2_000
"""Bits of a whole number, characters of a text, or their sum over a list, that an operator may make (of
a power: the base's bits times the exponent). Without it `9**9**9` or `[0]*9999*9999*9999` would take
the machine; it is low because a reply may hold thousands of them."""
# Python writes out whole numbers of up to 4,300 digits.
_WRITABLE_BITS = 14_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}


def python_calls(text: str) -> list[dict[str, Any]] | None:
    """The calls as [{"name", "arguments"}]; None where the text is anything else.

    Text around the list makes it unreadable; backticks, blanks and newlines around it, and missing
    brackets at its ends, do not. Arguments may hold values that JSON has not: `json_able` shows them.

    >>> python_calls('[f(a=-1, b=[60 * 2, None]), g.h(c=red)]')
    [{'name': 'f', 'arguments': {'a': -1, 'b': [120, None]}}, {'name': 'g.h', 'arguments': {'c': 'red'}}]
    """
    text = text.strip("`\n ").strip("[]'")
    try:
        body = ast.parse(text, mode="eval").body
        calls = [body] if isinstance(body, ast.Call) else _elements(body)
        return [{"name": _name(call.func), "arguments": _arguments(call)} for call in calls]
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


def _elements(node: ast.expr) -> list[ast.Call]:
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    calls = [element for element in elements if isinstance(element, ast.Call)]
    if len(calls) < len(elements):
        raise ValueError("not a list of calls")
    return calls


def _name(node: ast.expr) -> str:
    """A dotted name; what is not a name at its start is left out."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _arguments(call: ast.Call) -> dict[Any, Any]:
    return {keyword.arg: _value(keyword.value) for keyword in call.keywords}


def _value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant():
            return "..." if node.value is Ellipsis else node.value
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() | complex() as number)):
            return -number
        case ast.List():
            return [_value(element) for element in node.elts]
        case ast.Tuple():
            return tuple(_value(element) for element in node.elts)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {_value(key): _value(value) for key, value in pairs}
        case ast.Name():
            return node.id
        case ast.Call():
            return {_name(node.func): _arguments(node)} if node.keywords else ast.unparse(node)
        case ast.Subscript():
            return f"{ast.unparse(node.value)}[{ast.unparse(node.slice)}]"
        case ast.BinOp():
            return _computed(node)[0]
    raise ValueError(f"no value: {type(node).__name__}")


def _computed(node: ast.expr) -> tuple[Any, int]:
    """What Python makes of operators on literals, and an upper bound of its size."""
    match node:
        case ast.Constant():
            return node.value, _size(node.value)
        case ast.List() | ast.Tuple():
            items = [_computed(element) for element in node.elts]
            values = [value for value, _ in items]
            made = values if isinstance(node, ast.List) else tuple(values)
            return made, 1 + sum(size for _, size in items)
        case ast.UnaryOp():
            value, size = _computed(node.operand)
            return _UNARY[type(node.op)](value), size
        case ast.BinOp() if type(node.op) in _BINARY:
            left, right = _computed(node.left), _computed(node.right)
            size = _result_size(node.op, left, right)
            if size > SIZE_LIMIT:
                raise ValueError("too large")
            value = _BINARY[type(node.op)](left[0], right[0])
            return value, size if isinstance(value, list | tuple) else _size(value)
    raise ValueError(f"no literal: {type(node).__name__}")


def _result_size(kind: ast.operator, left: tuple[Any, int], right: tuple[Any, int]) -> int:
    """An upper bound of the result's size, and of both operands'."""
    (base, base_size), (times, times_size) = left, right
    both = base_size + times_size
    if isinstance(kind, ast.Mod) and isinstance(base, str | bytes):
        raise ValueError("a format may ask for any width")
    if isinstance(kind, ast.Pow) and isinstance(base, int) and isinstance(times, int):
        return max(both, base_size * times) if abs(base) > 1 else both
    if isinstance(kind, ast.LShift) and isinstance(times, int):
        return both + max(times, 0)
    if isinstance(kind, ast.Mult):
        if isinstance(base, int):
            (base, base_size), (times, times_size) = right, left
        if isinstance(base, str | bytes | list | tuple) and isinstance(times, int):
            return max(both, base_size * times)
    return both


def _size(value: Any) -> int:
    """Of one value; at least 1, or a list of nothings could be multiplied without end."""
    if isinstance(value, int):
        return max(1, value.bit_length())
    return max(1, len(value)) if isinstance(value, str | bytes) else 1


def json_able(value: Any) -> Any:
    """The value for a log: what JSON has not (bytes, complex numbers, other keys) as Python's text."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else repr(key): json_able(v) for key, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_able(item) for item in value]
    if isinstance(value, int) and value.bit_length() > _WRITABLE_BITS:
        return f"a whole number of {value.bit_length()} bits"
    return value if isinstance(value, str | int | float | None) else repr(value)
