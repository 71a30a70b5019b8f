"""Fill the run's page and write all pages. Works at any time of a run."""

import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports.budgets import budget_rows, contrast_grids
from reports.charts import accuracy_panels, loss_panel, stage_panels
from reports.data import data_views
from reports.details import hardware_line, stage_views, trained_tokens
from reports.differences import (
    Table,
    gain_table,
    questions,
    stage_differences,
    total_gains,
)
from reports.page import compact, count_of, percent, write_page
from reports.paper import PaperValue, paper_values
from reports.read import RunFacts, read_run
from reports.samples import RULE, sample_groups
from reports.summary import summary_lines, verdict
from reports.svg import css_variables
from reports.sweep import INDEX, write_sweep_pages
from workbench.progress import duration_words
from workbench.provenance import ROOT
from workbench.statistics import mean_of_differences


def write_report(root: Path) -> str:
    """Write every page of a run, finished or not; returns the summary for the terminal.

    Raises: UserError where `root` holds no run.
    """
    facts = read_run(root)
    places = write_pages(facts)
    return "\n".join([*summary_lines(facts), *places])


def write_pages(facts: RunFacts) -> list[str]:
    """Write report.html and the pages of evaluations; lines that say where they are."""
    table, path = write_sweep_pages(facts), facts.root / "report.html"
    write_page(path, "report.html", page_of(facts), "style.css")
    also = ", curves by budget" if facts.curves else ""
    return [*([f"table and samples: {table}"] if table else []), f"report{also}: {path}"]


def page_of(facts: RunFacts) -> dict[str, Any]:
    """What the page shows. Everything that a model, the data or a recipe wrote is escaped there."""
    table, off = gain_table(facts), gain_table(facts, budget=0)
    current = table.current()
    count = max(len(facts.models), 1)
    stages = facts.stages.values()
    policies = {s.name: stage_panels(s) for s in stages}
    return {
        "run": facts,
        "ramp_light": Markup(css_variables(count)),
        "ramp_dark": Markup(css_variables(count, dark=True)),
        "verdict": verdict(facts),
        "awaited": ", ".join(s.name for s in stages if s.kind == "evals" and s.status != "done"),
        "tiles": _tiles(facts),
        "stages": stage_views(facts),
        "tables": [
            (title, shown)
            for title, shown in (("Reasoning on", table), ("Reasoning off", off))
            if shown.rows
        ],
        "panels": accuracy_panels(current, off.current()),
        "has_off": bool(off.rows),
        "budgets": budget_rows(facts),
        "contrasts": contrast_grids(facts),
        "pretrain": [p for s in stages if (p := loss_panel(s, "tokens"))],
        "sft": [p for s in stages if (p := loss_panel(s, "step"))],
        "differences": stage_differences(facts),
        "policies": {name: panels for name, panels in policies.items() if panels},
        "paper": _paper_rows(current),
        "samples": sample_groups(facts),
        "data": data_views(facts),
        "rule": RULE,
        "samples_page": INDEX if facts.results else "",
        "commands": _commands(facts),
    }


def _tiles(facts: RunFacts) -> list[tuple[str, str, str]]:
    """(label, number, note) of the headline figures."""
    out = []
    gains = [gain for _, gain in total_gains(facts)]
    if gains:  # the questions of the first sentence: those that both models have
        mean = mean_of_differences(gains)
        before, after, n = mean.before.value, mean.after.value, mean.n
        note = (
            f"{facts.evaluated[0]} to {facts.evaluated[-1]}, {count_of(len(gains), 'benchmark')}, "
            f"n = {n:,} questions"
        )
        value = f"{percent(before)} → {percent(after)}"
        out.append(("mean accuracy" if len(gains) > 1 else "accuracy", value, note))
    stages = [s for s in facts.stages.values() if s.manifest]
    sizes = [size for s in stages if (size := s.result.parameters) is not None]
    if sizes:
        out.append(("parameters", compact(sizes[0]), f"{sizes[0]:,}"))
    tokens = [t for s in stages if (t := trained_tokens(s))]
    if tokens:
        out.append(("tokens", compact(sum(tokens)), "trained on or sampled for training"))
    if stages:
        wall = sum(s.manifest.wall_s for s in stages if s.manifest)
        hardware = next((s.manifest.hardware for s in stages if s.manifest), {})
        out.append(("stage time", duration_words(wall), hardware_line(hardware)))
    return out


def _paper_rows(table: Table) -> list[tuple[str, str, list[PaperValue]]]:
    """(domain, our first and last accuracy, the paper's figures of that domain)."""
    rows = []
    for name, cells in table.rows:
        ends = list(dict.fromkeys((next(iter(cells.values())), [*cells.values()][-1])))
        ours = " → ".join(percent(cell.accuracy.value) for cell in ends)
        if found := paper_values(name):
            rows.append((name, f"{ours} (n = {questions(ends)})", found))
    return rows


def _commands(facts: RunFacts) -> list[str]:
    commits = [
        str(s.manifest.git["commit"])
        for s in facts.stages.values()
        if s.manifest and "commit" in s.manifest.git
    ]
    # With the environment's own Python and the run's own place: it works without activating anything.
    recipe = (facts.root / "recipe.json").resolve()
    if recipe.is_relative_to(ROOT):
        recipe = recipe.relative_to(ROOT)
    words = ["scripts/run_stage.py", "all", "--recipe", str(recipe), "--run", f"{facts.name}-again"]
    run = shlex.join([".venv/bin/python", *words])
    return [*(f"git checkout {c}" for c in dict.fromkeys(commits[-1:])), _setup(facts), run]


def _setup(facts: RunFacts) -> str:
    """What installs all that the run imports: models and benchmarks from elsewhere are extras."""
    configs = [stage.config for stage in facts.stages.values()]
    asked = [str(name) for config in configs for name in config.get("benchmarks") or ()]
    own = all(name.startswith("mini-") for name in asked)
    if own and all(config.get("kind") != "convert" for config in configs):
        return "make setup"
    return "scripts/setup.sh real evals"
