"""The reference part of docs/recipes.md, written from the recipe's schema by scripts/recipes_doc.py.

The words are those of the schema: the string under a field says its meaning and unit, a class's
docstring what a section is. What is written by hand stands in the page before MARK.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from workbench import registry
from workbench.recipe import Recipe, StageConfig
from workbench.schema import Section

MARK = "<!-- From here on written by `python scripts/recipes_doc.py`; do not edit. -->"

# Unions with a table of their own: heading -> where the union is. A field that takes one links there.
_GROUPS = {
    "Data sources": "data_mix.config:SourceConfig",
    "Tool environments": "environments.config:TasksConfig",
}
# Lists of names that fields refer to: heading -> where they are.
_NAMES = {
    "domains of the world": "data_mix.world.generate:DOMAINS",
    "its splits": "data_mix.world.generate:SPLITS",
    "categories of `pretraining`": "data_mix.world.blend:PRETRAINING_KINDS",
    "categories of `bfcl`": "data_mix.bfcl_names:BFCL_CATEGORIES",
    "tasks of `reasoning_gym`": "data_mix.reasoning_names:REASONING_TASKS",
    "presets of `model`": "model.presets:PRESETS",
    "fields for `model.overrides`": "model.presets:HybridShape",
}
_CHECKERS = "reward.dispatch:CHECKERS"
_WORDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "anything",
    NoneType: "null",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_EVERYWHERE = ("kind", *StageConfig.model_fields)


def recipe_reference() -> str:
    """Everything of docs/recipes.md from MARK on."""
    kinds = {name: registry.resolve(kind.config) for name, kind in registry.kinds().items()}
    groups = {title: members_of(registry.resolve(at)) for title, at in _GROUPS.items()}
    grouped = [model for models in groups.values() for model in models]
    others = [m for m in reachable([Recipe, *kinds.values(), *grouped]) if m not in grouped]
    nested = [m for m in others if m not in (Recipe, StageConfig, *kinds.values())]
    page = _Page(groups)
    lines = [MARK, "", "# Reference", "", _LEGEND, ""]
    lines += ["## The whole recipe", "", *page.table(Recipe), *_EXTENDS]
    lines += ["## Every stage", "", *page.table(StageConfig), *_LIKE]
    lines += ["## Stage kinds", "", "| kind | what it does |", "| --- | --- |"]
    lines += [
        f"| [`{name}`](#{_slug(_stage_title(name))}) | {_cell(registry.kind(name).about)} |"
        for name in kinds
    ]
    for name, model in kinds.items():
        about = f"{registry.kind(name).about}."
        lines += ["", f"### {_stage_title(name)}", "", about[0].upper() + about[1:]]
        lines += [*_about(model), "", *page.table(model, without=_EVERYWHERE)]
    for title, models in groups.items():
        lines += ["", f"## {title}"]
        for model in models:
            lines += ["", *page.section(model)]
    lines += ["", "## Sections"]
    for model in nested:
        lines += ["", *page.section(model)]
    lines += ["", "## Names", "", "| what | names |", "| --- | --- |"]
    for title, at in _NAMES.items():
        lines.append(
            f"| {title} | {', '.join(f'`{name}`' for name in _names(registry.resolve(at)))} |"
        )
    return "\n".join([*lines, "", *_checks()])


def _names(found: Any) -> Iterable[str]:
    """The names of a table or a sequence; of a dataclass, its fields."""
    return [f.name for f in fields(found)] if is_dataclass(found) else found


_LEGEND = (
    "One table a section. **required**: the key has no default. A linked type is a mapping, with the "
    "keys of the section it links to; “its defaults” means that the mapping may be left out. `[paper]` "
    "and `[model card]` mark values of Nemotron Nano 2."
)
_EXTENDS = [
    "",
    "Beside these, `extends: FILE` (a path beside this file) starts from another recipe: mappings are "
    "merged key by key, anything else replaces, and a stage that is `null` is left out.",
    "",
]
_LIKE = [
    "",
    "Beside these, `like: STAGE` starts from the keys of another stage of the recipe; the keys written "
    "beside it replace that stage's, each as a whole.",
    "",
]


class _Page:
    """Tables of sections that link to each other."""

    def __init__(self, groups: dict[str, list[type[Section]]]) -> None:
        self._groups = groups

    def section(self, model: type[Section]) -> list[str]:
        """Heading, words and table of a section."""
        tag = model.model_fields.get("type")
        names = get_args(tag.annotation) if tag else ()
        written = f" Written `type: {names[0]}`." if names else ""
        about = " ".join([*_about(model)[1:]]).strip() + written
        # A type that is not a fixed word is a key like any other.
        without = ("type",) if names else ()
        return [f"### {_title(model)}", "", about, "", *self.table(model, without=without)]

    def table(self, model: type[Section], without: Iterable[str] = ()) -> list[str]:
        """A row a key."""
        shown = {n: f for n, f in model.model_fields.items() if n not in tuple(without)}
        if not shown:
            return ["It has no keys of its own."]
        return ["| key | type | default | meaning |", "| --- | --- | --- | --- |"] + [
            f"| `{name}` | {self._bounded(field.annotation, field.metadata)} | {default_of(field)} "
            f"| {_cell(field.description or '')} |"
            for name, field in shown.items()
        ]

    def _bounded(self, annotation: Any, metadata: Iterable[Any]) -> str:
        bounds = [
            f"{sign} {_number(getattr(rule, name))}"
            for rule in metadata
            for name, sign in _BOUNDS.items()
            if getattr(rule, name, None) is not None
        ]
        base, null = _without_null(annotation)
        words = " ".join([self._words(base), ", ".join(bounds)]).strip().replace("<", "&lt;")
        return f"{words}, or null" if null else words

    def _words(self, annotation: Any) -> str:
        """A type in words, as a cell of a table."""
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            rules = [r for field in inner[1:] for r in getattr(field, "metadata", ())]
            return self._bounded(inner[0], rules)
        if origin is Literal:
            return " \\| ".join(f"`{_yaml(value)}`" for value in inner)
        if origin in (Union, UnionType):
            return self._union(annotation)
        if origin is list or (origin is tuple and inner[-1] is Ellipsis):
            return f"list of {self._bounded(inner[0], ())}"
        if origin is tuple:
            return f"[{', '.join(self._words(part) for part in inner)}]"
        if origin is dict:
            return "mapping" if inner[1] is Any else f"NAME: {self._bounded(inner[1], ())}"
        if isinstance(annotation, type) and issubclass(annotation, Section):
            shown = "stage" if annotation is StageConfig else _title(annotation)
            at = "Stage kinds" if annotation is StageConfig else _title(annotation)
            return f"[{shown}](#{_slug(at)})"
        return _WORDS[annotation]

    def _union(self, annotation: Any) -> str:
        members = members_of(annotation)
        for title, models in self._groups.items():
            if members and set(members) == set(models):
                return f"one of [{title.lower()}](#{_slug(title)})"
        return " \\| ".join(self._words(part) for part in get_args(annotation))


def _checks() -> list[str]:
    lines = [
        "## Checks", "", "`check: {kind, reference, options}` of a conversation: what each kind of checker "
        "takes. `options` are those in the line under the kind, with their defaults.",
    ]  # fmt: skip
    for kind, at in registry.resolve(_CHECKERS).items():
        function = registry.resolve(at)
        parameters = inspect.signature(function).parameters.values()
        options = [option_of(p) for p in parameters if p.kind is p.KEYWORD_ONLY]
        lines += ["", f"### check {kind}", "", f"options: {', '.join(options) or 'none'}"]
        lines += ["", "~~~text", inspect.getdoc(function) or "", "~~~"]
    return [*lines, ""]


def option_of(parameter: inspect.Parameter) -> str:
    """A checker's option with its default."""
    if parameter.default is parameter.empty:
        return f"`{parameter.name}` (required)"
    # A long list of words is the code's to show.
    value = _yaml(parameter.default)
    return f"`{parameter.name}: {value}`" if len(value) < 40 else f"`{parameter.name}`"


def reachable(models: Iterable[type[Section]]) -> list[type[Section]]:
    """These sections and all that stand in their fields, each once, in order of first use."""
    found: dict[type[Section], None] = {}
    for model in models:
        if model in found:
            continue
        found[model] = None
        inner = [m for field in model.model_fields.values() for m in _sections(field.annotation)]
        for one in reachable([m for m in inner if m not in found]):
            found.setdefault(one)
    return list(found)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def words_of(field: FieldInfo) -> str:
    """A field's type in words, for a terminal."""
    groups = {title: members_of(registry.resolve(at)) for title, at in _GROUPS.items()}
    text = _Page(groups)._bounded(field.annotation, field.metadata)
    text = re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", text)
    return text.replace("\\|", "|").replace("&lt;", "<").replace("`", "")


def members_of(annotation: Any) -> list[type[Section]]:
    """The sections of a union, empty where it is none."""
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    whole = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    parts = [get_args(p)[0] if get_origin(p) is Annotated else p for p in whole]
    sections = all(isinstance(part, type) and issubclass(part, Section) for part in parts)
    return list(parts) if sections else []


def _without_null(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, UnionType) or NoneType not in get_args(annotation):
        return annotation, False
    kept = tuple(part for part in get_args(annotation) if part is not NoneType)
    return Union[kept], True  # noqa: UP007 - made from a tuple


def default_of(field: FieldInfo) -> str:
    """The default as a cell of a table shows it."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return "its defaults"
    return f"`{_yaml(value)}`" if value != "" else "empty"


def _number(value: float) -> str:
    """A bound; the only one too long to read is that of seeds."""
    return "2^63" if value == 2**63 else f"{value:,}"


def _yaml(value: Any) -> str:
    """A value as a recipe may write it, on one line. A number with an exponent needs its point."""
    if isinstance(value, float):
        return re.sub(r"^(-?\d)e", r"\1.0e", f"{value:g}")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(part) for part in value)}]"
    return value if isinstance(value, str) and value else json.dumps(value)


def _about(model: type[Section]) -> list[str]:
    """What the docstring says beyond the kind's name; the first line is blank."""
    text = " ".join((inspect.getdoc(model) or "").split())
    text = re.sub(r"^Stage kind `\w+`(: |\.)", "", text)
    return ["", _escaped(text[0].upper() + text[1:])] if text else []


def _title(model: type[Section]) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"(Config|Section)$", "", model.__name__))
    return words.capitalize()


def _stage_title(kind: str) -> str:
    return f"Stage {kind}"


def _slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")
