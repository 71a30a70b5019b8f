"""YAML as recipes and `--set` read it: YAML 1.2's plain values, and no surprises of YAML 1.1.

1e-6 and 1E5 are numbers, 010 is ten, 1:30 and 2026-01-01 are text, and yes, no, on and off are words
that a true-or-false key takes. Underscores may stand between digits, as in Python.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from workbench.errors import UserError

# ValueError: an integer of thousands of digits.
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_WORDS = ("yes", "no", "on", "off")


class Word(str):
    """A plain yes, no, on or off: YAML 1.1 reads true or false there, YAML 1.2 reads text."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: YAML would silently keep the last."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise UserError(f"recipe: key {key!r} stands twice in the mapping at line {line}")
        made = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, Word) else key: value for key, value in made.items()}

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text, base)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        value = float(re.sub(r"\.(inf|nan)$", r"\1", text))
        if math.isinf(value) and not text.endswith("inf"):
            raise ValueError(f"{text[:40]} is too large for a number")
        return value

    def construct_word(self, node: yaml.ScalarNode) -> Word:
        return Word(self.construct_scalar(node))


def _plain(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), list(first)
    )


_plain("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_plain("int", rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_plain(
    "float",
    rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_plain("null", "~|null|Null|NULL", "~nN")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
_plain("merge", "<<", "<")
_plain("word", "|".join(f"{w}|{w.title()}|{w.upper()}" for w in _WORDS), "yYnNoO")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)
_Loader.add_constructor("tag:yaml.org,2002:word", _Loader.construct_word)


def parse(text: str) -> Any:
    """The value of a YAML document. Raises: one of NOT_YAML, or UserError on a key written twice."""
    return yaml.load(text, Loader=_Loader)


def first_word(value: Any, place: str = "") -> tuple[str, str] | None:
    """(dotted place, word) of the first `Word` in a value, or None."""
    return next(_words_in(value, place), None)


def _words_in(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Word):
        yield place, str(value)
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, BaseModel):
        items = value
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        yield from _words_in(inner, f"{place}.{key}".strip("."))
