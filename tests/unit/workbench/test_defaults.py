"""Defaults beside versions: what stands at its default is in no digest, so a changed one raises the kind's version.

python -m tests.unit.workbench.test_defaults      # writes defaults.json anew, after versions are raised
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from workbench import registry
from workbench.schema import Section

KEPT = Path(__file__).with_name("defaults.json")


def sections(
    model: type[BaseModel], seen: dict[str, type[BaseModel]]
) -> dict[str, type[BaseModel]]:
    """All sections below one, itself too, by name."""
    if model.__name__ not in seen:
        seen[model.__name__] = model
        for field in model.model_fields.values():
            for inner in _inner(field.annotation):
                sections(inner, seen)
    return seen


def _inner(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in get_args(annotation) for one in _inner(part)]


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Field -> default as JSON; a field without one is left out."""
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True), fallback=str)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def now() -> dict[str, Any]:
    """Versions of kinds, the sections that each has, and the sections' defaults."""
    found: dict[str, Any] = {"kinds": {}, "sections": {}}
    for name, kind in sorted(registry.kinds().items()):
        own = sections(registry.resolve(kind.config), {})
        found["kinds"][name] = {"version": kind.version, "sections": sorted(own)}
        found["sections"] |= {key: defaults(section) for key, section in own.items()}
    return dict(json.loads(json.dumps(found, sort_keys=True)))


def changed(then: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """A line for each kind one of whose defaults changed while its version did not."""
    lines = []
    for name, kind in there["kinds"].items():
        was = then["kinds"].get(name)
        if was is None or kind["version"] > was["version"]:
            continue
        for section in kind["sections"]:
            old, new = then["sections"].get(section, {}), there["sections"][section]
            lines += [
                f"{name}: {section}.{key} was {old[key]!r} and is {new[key]!r}; raise its version"
                for key in old.keys() & new.keys()
                if old[key] != new[key]
            ]
    return lines


def test_a_changed_default_raises_the_version_of_every_kind_that_has_it() -> None:
    then, there = json.loads(KEPT.read_text(encoding="utf-8")), now()
    assert changed(then, there) == []
    assert then == there, f"new keys or versions: python -m {__name__}"


@pytest.mark.parametrize("raised", [False, True])
def test_the_comparison_sees_a_shared_section(raised: bool) -> None:
    then = {"kinds": {"a": {"version": 1, "sections": ["E"]}}, "sections": {"E": {"x": 1}}}
    there = {
        "kinds": {
            "a": {"version": 1 + raised, "sections": ["E"]},
            "b": {"version": 1, "sections": ["E"]},
        },
        "sections": {"E": {"x": 2, "y": 3}},
    }
    assert changed(then, there) == ([] if raised else ["a: E.x was 1 and is 2; raise its version"])


def test_every_section_is_one_of_ours() -> None:
    assert all(issubclass(s, Section) for k in registry.kinds().values()
               for s in sections(registry.resolve(k.config), {}).values())  # fmt: skip


if __name__ == "__main__":
    KEPT.write_text(json.dumps(now(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
