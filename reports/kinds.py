"""What a recipe can name: stage kinds, checks, environments, sources, benchmarks, trackers, plug-ins included.

Each with what it reads and writes, its keys, and the smallest recipe that uses it: that is cut from the
shipped recipes, so it is one that passes --dry-run.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import yaml

from evals.registry import BENCHMARKS, FAMILIES
from reports.recipe_doc import default_of, members_of, option_of, reachable, words_of
from workbench import registry
from workbench.errors import unknown_name
from workbench.inherit import extended, with_likes
from workbench.provenance import ROOT
from workbench.recipe import StageConfig, build, read_yaml
from workbench.schema import Section
from workbench.trackers import TOOLS, TrackerConfig

_SOURCES = "data_mix.config:SourceConfig"
_ENVIRONMENTS = "environments.config:TasksConfig"
_CHECKERS = "reward.dispatch:CHECKERS"
_OWN = {
    "checks": "FILE.py:NAME or package.module:NAME: a function of your own (docs/rewards.md)",
    "benchmarks": "FILE.py:NAME: questions that a function of your own makes (docs/evals.md)",
}


@dataclass(frozen=True)
class Named:
    """One thing that a recipe can name. lines(): what is told of it."""

    group: str
    name: str
    about: str
    lines: Callable[[], list[str]]


@cache
def everything() -> tuple[Named, ...]:
    """All of them, group by group."""
    return tuple(
        named
        for part in (_kinds, _checks, _environments, _sources, _benchmarks, _trackers)
        for named in part()
    )


def overview() -> list[str]:
    """A line each, under the names of the groups."""
    lines: list[str] = []
    for group in dict.fromkeys(named.group for named in everything()):
        own = [named for named in everything() if named.group == group]
        width = max(len(named.name) for named in own)
        lines += [*([""] if lines else []), f"{group}:"]
        lines += [f"  {named.name:{width}}  {named.about}" for named in own]
        lines += [f"  {_OWN[group]}"] if group in _OWN else []
    return [*lines, "", "anneal kinds NAME says more of one"]


def details(name: str) -> list[str]:
    """What one name means; of several groups, all of them. Raises: UserError naming the nearest one."""
    found = [named for named in everything() if named.name == name]
    if not found:
        raise unknown_name("name", name, {named.name for named in everything()})
    lines: list[str] = []
    for named in found:
        lines += [*([""] if lines else []), f"{named.name} ({named.group}): {named.about}"]
        lines += named.lines()
    return lines


def _kinds() -> Iterator[Named]:
    for name, kind in registry.kinds().items():
        yield Named("stage kinds", name, kind.about, lambda name=name: _kind(name))  # type: ignore[misc]


def _kind(name: str) -> list[str]:
    kind = registry.kind(name)
    config: type[StageConfig] = registry.resolve(kind.config)
    data = any(source in reachable([config]) for source in members_of(registry.resolve(_SOURCES)))
    reads = [*kind.takes, *(["data"] if data else [])]
    lines = [f"reads: {', '.join(reads) or 'nothing'}", f"writes: {', '.join(kind.makes)}"]
    return [*lines, *_keys(config, without=("kind",)), *_example(name)]


def _keys(model: type[Section], without: tuple[str, ...] = ()) -> list[str]:
    lines = ["", "keys (those without a default are required):"]
    for key, field in model.model_fields.items():
        if key in without:
            continue
        default = "" if field.is_required() else f" = {default_of(field)}"
        meaning = " ".join((field.description or "").split())
        lines.append(f"  {key}: {words_of(field)}{default}")
        lines += [f"      {meaning}"] if meaning else []
    return lines


def _example(kind: str) -> list[str]:
    found = smallest_recipe(kind)
    if found is None:
        config: type[StageConfig] = registry.resolve(registry.kind(kind).config)
        needed = [key for key, field in config.model_fields.items() if field.is_required()]
        body = {key: kind if key == "kind" else "..." for key in needed}
        found = yaml.safe_dump({"name": "mine", "stages": {"mine": body}}, sort_keys=False)
    return ["", "smallest recipe:", *(f"  {line}" for line in found.splitlines())]


@cache
def smallest_recipe(kind: str) -> str | None:
    """A whole recipe with a stage of this kind and what it needs; None where no shipped one has any."""
    found = [whole for raw in _shipped() for whole in _cut(raw, kind)]
    if not found:
        return None
    whole = min(found, key=lambda whole: len(json.dumps(whole, default=str)))
    build(whole)
    return yaml.dump(whole, Dumper=Plain, sort_keys=False, width=100, allow_unicode=True)


@cache
def _shipped() -> tuple[dict[str, Any], ...]:
    return tuple(extended(path, read_yaml) for path in sorted((ROOT / "recipes").glob("*.yaml")))


def _cut(raw: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    stages = with_likes(raw["stages"])
    for name, body in stages.items():
        if isinstance(body, dict) and body.get("kind") == kind:
            kept = _closure(name, stages)
            whole = {**deepcopy(raw), "name": "mine", "stages": {n: stages[n] for n in kept}}
            whole.pop("about", None)
            yield whole


def _closure(name: str, stages: dict[str, Any]) -> list[str]:
    kept, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        kept.add(one)
        waiting += [need for need in stages[one].get("needs", ()) if need not in kept]
    return [stage for stage in stages if stage in kept]


class Plain(yaml.SafeDumper):
    """Writes what stands twice twice: marks and aliases are for those who write by hand."""

    def ignore_aliases(self, data: Any) -> bool:
        """See yaml."""
        return True


def _checks() -> Iterator[Named]:
    for name, at in registry.resolve(_CHECKERS).items():
        text = inspect.getdoc(registry.resolve(at)) or ""
        yield Named("checks", name, _first(text), lambda name=name, at=at: _check(name, at))  # type: ignore[misc]


def _check(name: str, at: str) -> list[str]:
    function = registry.resolve(at)
    parameters = inspect.signature(function).parameters.values()
    options = [option_of(p).replace("`", "") for p in parameters if p.kind is p.KEYWORD_ONLY]
    lines = [
        "reads: a reply and a reference",
        "writes: a verdict",
        f"options: {', '.join(options) or 'none'}",
    ]
    lines += ["", *(inspect.getdoc(function) or "").splitlines()]
    return [*lines, "", "in a row of data:", f"  check: {{kind: {name}, reference: ...}}"]


def _environments() -> Iterator[Named]:
    return _tagged("environments", _ENVIRONMENTS, "tasks", "a trajectory and a verdict")


def _sources() -> Iterator[Named]:
    return _tagged("sources", _SOURCES, "source", "conversations or texts")


def _tagged(group: str, at: str, key: str, writes: str) -> Iterator[Named]:
    for model in members_of(registry.resolve(at)):
        # Your own are named by their file or module.
        tag = next(iter(get_args(model.model_fields["type"].annotation)), "FILE.py:NAME")
        about = _first(inspect.getdoc(model) or "")
        yield Named(group, tag, about, lambda m=model, t=tag: _section(m, t, key, writes))  # type: ignore[misc]


def _section(model: type[Section], tag: str, key: str, writes: str) -> list[str]:
    needed = [n for n, f in model.model_fields.items() if f.is_required() and n != "type"]
    body = ", ".join([f"type: {tag}", *(f"{name}: ..." for name in needed)])
    lines = [f"writes: {writes}", *_keys(model, without=("type",))]
    return [*lines, "", "in a recipe:", f"  {key}: {{{body}}}"]


def _benchmarks() -> Iterator[Named]:
    for name, found in BENCHMARKS.items():
        told = lambda found=found: [  # noqa: E731 - one line of three facts
            "reads: a checkpoint or a served model",
            "writes: results",
            f"data: {found.data}",
            "",
            "in a recipe:",
            f"  evals: {{kind: evals, needs: [STAGE], benchmarks: [{found.name}]}}",
        ]
        yield Named("benchmarks", name, found.about, told)
    for prefix, make in FAMILIES.items():
        words = " ".join(str(make.__doc__).split())
        yield Named("benchmarks", f"{prefix}...", words.split("Raises:")[0].strip(), lambda: [])


def _trackers() -> Iterator[Named]:
    for name, about in TOOLS.items():
        told = ["writes: metrics and a table of rollouts", *_keys(TrackerConfig, without=("tool",))]
        lines = [*told, "", "in a recipe:", f"  tracking: [{{tool: {name}}}]"]
        yield Named("trackers", name, about, lambda lines=lines: lines)  # type: ignore[misc]


def _first(text: str) -> str:
    """The first sentence of a docstring."""
    words = " ".join(text.split("\n\n")[0].split())
    return words.split(". ")[0].rstrip(".")
