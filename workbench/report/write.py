"""Fill the page and write it. Works at any time of a run."""

import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from workbench.progress import duration_words
from workbench.provenance import ROOT
from workbench.report import charts
from workbench.report.budget_table import contrast_grids
from workbench.report.budgets import budget_rows
from workbench.report.compare import Table, gain_table, questions, total_gains
from workbench.report.details import count_of, hardware_line, stage_views, trained_tokens
from workbench.report.lifts import stage_lifts
from workbench.report.palette import css_variables
from workbench.report.panel import Panel
from workbench.report.paper import PaperValue, paper_values
from workbench.report.read import RunFacts, read_run
from workbench.report.samples import RULE, sample_groups
from workbench.report.summary import summary_lines, verdict
from workbench.report.svg import compact, percent, points
from workbench.report.templating import template_environment
from workbench.statistics import Estimate

_TEMPLATES = Path(__file__).parent / "templates"
_SAMPLES = "evals/index.html"


def write_report(root: Path) -> str:
    """Write report.html of a run, finished or not; returns the summary for the terminal.

    Raises: UserError where `root` holds no run.
    """
    facts = read_run(root)
    path = root / "report.html"
    half = path.with_name(f".{path.name}")
    half.write_text(render_page(facts), encoding="utf-8")
    half.replace(path)
    return "\n".join([*summary_lines(facts), f"report: {path}"])


def render_page(facts: RunFacts) -> str:
    """The whole page. Everything that a model, the data or a recipe wrote is escaped."""
    table, off = gain_table(facts), gain_table(facts, budget=0)
    current = table.current()
    count = max(len(facts.models), 1)
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    context: dict[str, Any] = {
        "run": facts,
        "style": Markup(style),
        "ramp_light": Markup(css_variables(count)),
        "ramp_dark": Markup(css_variables(count, dark=True)),
        "verdict": verdict(facts),
        "tiles": _tiles(facts),
        "stages": stage_views(facts),
        "tables": [
            (title, shown)
            for title, shown in (("Reasoning on", table), ("Reasoning off", off))
            if shown.rows
        ],
        "panels": charts.accuracy_panels(current, off.current()),
        "has_off": bool(off.rows),
        "budgets": budget_rows(facts),
        "contrasts": contrast_grids(facts),
        "pretrain": _pretrain(facts),
        "sft": charts.sft_losses([s for s in facts.stages.values() if s.kind == "sft"]),
        "lifts": stage_lifts(facts),
        "policies": _policies(facts),
        "paper": _paper_rows(current),
        "samples": sample_groups(facts),
        "rule": RULE,
        "samples_page": _SAMPLES if (facts.root / _SAMPLES).is_file() else "",
        "commands": _commands(facts),
    }
    return _environment().get_template("report.html").render(context)


@cache
def _environment() -> Environment:
    return template_environment(
        _TEMPLATES, {"percent": percent, "points": points, "span": span, "questions": questions}
    )


def span(estimate: Estimate, *, gain: bool = False) -> str:
    """The 95% interval in percent or points."""
    if estimate.low != estimate.low:  # NaN: one question has no interval
        return "no interval"
    if gain:
        return f"{points(estimate.low)} to {points(estimate.high)}"
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}"


def _tiles(facts: RunFacts) -> list[tuple[str, str, str]]:
    """(label, number, note) of the headline figures."""
    out = []
    gains = [gain for _, gain in total_gains(facts)]
    if gains:  # the questions of the first sentence: those that both models have
        before = sum(gain.before for gain in gains) / len(gains)
        after = sum(gain.after for gain in gains) / len(gains)
        n = sum(gain.estimate.n for gain in gains)
        note = (
            f"{facts.evaluated[0]} to {facts.evaluated[-1]}, {count_of(len(gains), 'benchmark')}, "
            f"n = {n:,} questions"
        )
        value = f"{percent(before)} → {percent(after)}"
        out.append(("mean accuracy" if len(gains) > 1 else "accuracy", value, note))
    stages = [s for s in facts.stages.values() if s.manifest]
    sizes = [s.outputs["parameters"] for s in stages if "parameters" in s.outputs]
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


def _pretrain(facts: RunFacts) -> list[tuple[str, Markup]]:
    on_blends = [s for s in facts.stages.values() if s.kind in ("pretrain", "distill")]
    pictures = [(s.name, charts.pretrain_loss(s)) for s in on_blends]
    return [(name, svg) for name, svg in pictures if svg is not None]


@dataclass(frozen=True)
class _Policy:
    name: str
    panels: list[Panel]


def _policies(facts: RunFacts) -> list[_Policy]:
    out = []
    for stage in facts.stages.values():
        panels = charts.policy_panels(stage)
        if panels:
            out.append(_Policy(stage.name, panels))
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
