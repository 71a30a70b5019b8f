"""Typed methods as tools: schemas from signatures and docstrings, arguments checked against them."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

# What a class has beside its tools.
RESERVED = (
    "reset", "step", "verify", "reward", "tasks", "turn", "task_of", "solve", "hear", "call", "documents", "close",
)  # fmt: skip
_PARAMETER = re.compile(r"^\s*(\w+)\s*(?:\([^)]*\))?\s*:\s*(.+)$")
_HEADING = re.compile(
    r"^\s*(args|arguments|parameters|returns|raises|yields|example|examples):?\s*$", re.I
)


class BadTool(Exception):
    """A method that cannot be a tool; says what is wrong with it."""


@dataclass(frozen=True)
class MethodTool:
    """A method, what the model reads of it, and the model of its arguments."""

    name: str
    document: dict[str, Any]
    arguments: type[BaseModel]

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the method takes them: read as JSON, where a date is a text and a set a list.
        Raises: ValueError that says what is wrong."""
        try:
            made = self.arguments.model_validate_json(json.dumps(dict(arguments)), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "arguments"
            raise ValueError(f"{place}: {first['msg'].lower()}"[:300]) from None
        return {name: getattr(made, name) for name in made.model_fields_set}


def tools_of(cls: type) -> dict[str, MethodTool]:
    """The public methods of a class, but for those that have a meaning of their own. Raises: BadTool."""
    names = [
        name
        for name in dir(cls)
        if not name.startswith("_")
        and name not in RESERVED
        and callable(getattr(cls, name, None))
        and not isinstance(getattr(cls, name), type)
    ]
    order = {name: place for place, name in enumerate(_defined(cls))}
    names.sort(key=lambda name: order.get(name, len(order)))
    return {name: tool_of(name, getattr(cls, name), _takes_self(cls, name)) for name in names}


def _takes_self(cls: type, name: str) -> bool:
    """Whether the attribute is a method, whose first parameter is the object; static and class methods and
    whatever else can be called have all of theirs left."""
    found = inspect.getattr_static(cls, name)
    return not isinstance(found, staticmethod | classmethod) and hasattr(type(found), "__get__")


def tool_of(name: str, method: Callable[..., Any], takes_self: bool) -> MethodTool:
    """A method as a tool. Raises: BadTool."""
    try:
        hints = get_type_hints(method, include_extras=True)
    except NameError as error:
        raise BadTool(f"tool {name}: {error}") from None
    about, described = _documented(inspect.getdoc(method) or "")
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(method).parameters.values())[takes_self:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadTool(f"tool {name} takes {parameter}; name each of its parameters")
        if parameter.name not in hints:
            raise BadTool(
                f"tool {name}: parameter {parameter.name!r} has no type; write {parameter.name}: str"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (
            hints[parameter.name],
            Field(default, description=described.get(parameter.name)),
        )
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        schema = _plain(model.model_json_schema())
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for a type
        raise BadTool(
            f"tool {name}: a type that JSON has not ({str(error).splitlines()[0]})"
        ) from None
    schema = {"type": schema.pop("type"), **schema}
    schema.pop("additionalProperties", None)
    document = {"name": name, "description": about or name.replace("_", " "), "parameters": schema}
    return MethodTool(name, document, model)


def _defined(cls: type) -> list[str]:
    """Names in the order in which they are written, of base classes first."""
    return [name for base in reversed(cls.__mro__) for name in vars(base)]


def _plain(schema: Any) -> Any:
    """Without pydantic's titles."""
    if isinstance(schema, dict):
        return {
            key: {name: _plain(value) for name, value in inner.items()}
            if key in ("properties", "$defs")
            else _plain(inner)
            for key, inner in schema.items()
            if key != "title"
        }
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the tool, and of each parameter ("name: what it is" on a line).

    >>> _documented("Light a room.\\n\\nroom: which one.")
    ('Light a room.', {'room': 'which one.'})
    """
    about, described, in_head = list[str](), dict[str, str](), True
    for line in text.splitlines():
        found = _PARAMETER.match(line)
        if _HEADING.match(line) or (found and about):
            in_head = False
        if found and not in_head:
            described[found[1]] = found[2].strip()
        elif in_head:
            about.append(line.strip())
    return " ".join(" ".join(about).split()), described
