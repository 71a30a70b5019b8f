"""What `import anneal` gives: the commands as functions."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import UserError, reason_of

Recipe = str | Path | Mapping[str, Any]
"""A recipe's file, or the recipe itself as a mapping, whose `extends` is a path from the working folder."""


class RunFailed(Exception):
    """A run that failed or was stopped; what it has made is kept, and the same call continues."""


def run(
    recipe: Recipe,
    stages: Sequence[str] = ("all",),
    *,
    name: str | None = None,
    set: Sequence[str] = (),
    fresh: bool = False,
) -> Path:
    """Run stages of a recipe and what they need; returns the run's folder (report.html is in it).

    name: of the run; None: the recipe's. set: overrides, as `--set`. Raises: UserError; RunFailed.
    """
    from scripts import run_stage
    from workbench.recipe import load
    from workbench.rundir import RunDir

    with _File(recipe) as file:
        args = _arguments(run_stage, [*stages, "--recipe", file, *_options(name, set, fresh)])
        code = run_stage.run(args)
        made = load(file, list(set))
    place, _ = RunDir.of(made.runs_dir, name or made.name)
    if code:
        raise RunFailed(
            f"run {place.root.name!r} did not end well; {place.root}/report.html says why"
        )
    return place.root


def plan(recipe: Recipe, stages: Sequence[str] = ("all",), *, set: Sequence[str] = ()) -> list[str]:
    """What a run would do, as the lines of --dry-run. Raises: UserError."""
    from scripts.plan_disk import with_disk
    from scripts.plan_room import check_memory
    from workbench.graph.dag import order
    from workbench.graph.plan import plan_run
    from workbench.recipe import load
    from workbench.rundir import RunDir

    with _File(recipe) as file:
        made = load(file, list(set))
        place, _ = RunDir.of(made.runs_dir, made.name)
        found = with_disk(made, plan_run(made, place, order(made, list(stages))))
        check_memory(made, [stage for stage, decided in found.decisions.items() if decided.run])
        return list(found.lines)


def sweep(
    models: Sequence[str],
    benchmarks: Sequence[str],
    *,
    recipe: Recipe | None = None,
    budgets: Sequence[int | None] = (),
    samples: int | None = None,
    limit: int | None = None,
    name: str | None = None,
    set: Sequence[str] = (),
    fresh: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate models on benchmarks; results.json of each by model. budgets: tokens, None for no limit.

    Raises: UserError; RunFailed where it was stopped, or no reply to a benchmark could be judged.
    """
    from evals.command import SweepCommand
    from evals.jobs import jobs_of
    from scripts import sweep as command

    with _File(recipe) as file:
        words = ["--models", ",".join(models), "--benchmarks", ",".join(benchmarks)]
        words += ["--recipe", file] if file else []
        words += ["--budgets", ",".join(_budget(b) for b in budgets)] if budgets else []
        for option, value in (("--samples", samples), ("--limit", limit)):
            words += [option, str(value)] if value is not None else []
        args = _arguments(command, [*words, *_options(name, set, fresh)])
        built = SweepCommand.build(args)
        code = command.run(_arguments(command, [*words, *_options(name, set, fresh)]))
    if code:
        raise RunFailed(
            f"the sweep under {built.run_dir.root} was stopped, or has a result without one reply that "
            f"could be judged; the same call{' without fresh' if fresh else ''} continues"
        )
    found: dict[str, list[dict[str, Any]]] = {}
    for model in built.models:
        for job in jobs_of(built.config, seed=built.seed):
            path = built.run_dir.root / "evals" / model.name / job.folder / "results.json"
            if not path.is_file():
                raise RunFailed(f"{path.parent} has no result; the same call continues")
            found.setdefault(model.name, []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


def _budget(budget: int | None) -> str:
    return "none" if budget is None else str(budget)


def _options(name: str | None, overrides: Sequence[str], fresh: bool) -> list[str]:
    named = ["--run", name] if name else []
    return [
        *named,
        *(w for one in overrides for w in ("--set", one)),
        *(["--fresh"] if fresh else []),
    ]


def _arguments(script: Any, words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    script.arguments(parser)
    try:
        return parser.parse_args(list(words))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{' '.join(words)!r} cannot be read: {error}") from None


class _Quoting(yaml.SafeDumper):
    """Every text in quotes: recipes are read by YAML 1.2, in which others are numbers than in PyYAML's 1.1."""


_Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


class _File:
    """The recipe as a file: a mapping is written for as long as it is read."""

    def __init__(self, recipe: Recipe | None) -> None:
        self._recipe, self._folder = recipe, tempfile.TemporaryDirectory()

    def __enter__(self) -> str:
        if self._recipe is None:
            return ""
        if not isinstance(self._recipe, Mapping):
            return str(self._recipe)
        made = dict(self._recipe)
        if isinstance(made.get("extends"), str):  # it stands beside no file
            made["extends"] = str(Path(made["extends"]).absolute())
        path = Path(self._folder.name) / "recipe.yaml"
        try:
            path.write_text(yaml.dump(made, Dumper=_Quoting, sort_keys=False), encoding="utf-8")
        except yaml.YAMLError as error:
            raise UserError(f"recipe: {reason_of(error)}; give plain values") from None
        return str(path)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
        sys.stdout.flush()
