"""The report's charts: which numbers stand in which picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from workbench.report.compare import Table, label
from workbench.report.read import Result, RunFacts, StageFacts
from workbench.report.svg import Chart, Series, both_sizes, compact, draw, percent

_PANEL = (236, 168)
_PHONE_PANEL = (160, 132)
_HALF = (490, 260)
_NARROW = (354, 230)
# Thinking tokens a model is shown with when nothing limits them stand one place right of the rest.
_UNLIMITED = "∞"


@dataclass(frozen=True)
class Panel:
    """A titled picture of a grid of pictures; note is a line of numbers under the title."""

    title: str
    svg: Markup
    note: str = ""


def accuracy_panels(table: Table, off: Table) -> list[Panel]:
    """Accuracy by stage, one panel a benchmark; `off`: the same with reasoning off."""
    without = dict(off.rows)
    panels = []
    for name, cells in table.rows:
        models = [m for m in table.models if m in cells]
        values = [cells[m].accuracy for m in models]
        colours = [f"--m{table.models.index(m)}" for m in models]
        on = Series(
            "",
            [(table.models.index(m), v.value) for m, v in zip(models, values, strict=True)],
            "--faint",
            [(v.low, v.high) for v in values],
            "points",
            colours,
        )
        shadow = without.get(name, {})
        points = [(i, shadow[m].accuracy.value) for i, m in enumerate(table.models) if m in shadow]
        series = [
            Series("reasoning off", [(float(i), y) for i, y in points], "--off", style="dashed")
        ]
        chart = Chart(
            f"Accuracy by stage: {name}",
            [*(series if points else []), on],
            x_names=[""] * len(table.models),
            y_range=(0.0, 1.0),
            y_format=percent,
        )
        chart = _named_places(chart, table.models)
        ends = (
            f"{percent(values[0].value)} → {percent(values[-1].value)}" if len(values) > 1 else ""
        )
        panels.append(Panel(name, both_sizes(chart, _PANEL, _PHONE_PANEL), ends))
    return panels


def _named_places(chart: Chart, models: list[str]) -> Chart:
    """Only the first and the last stage are written out; the legend has the colours of all."""
    names = [""] * len(models)
    if models:
        names[0] = models[0]
        names[-1] = models[-1]
    return Chart(**{**chart.__dict__, "x_names": names})


def pretrain_loss(stage: StageFacts) -> Markup | None:
    """Loss over tokens with the blend's phases marked."""
    points = stage.series("loss", x="tokens")
    if len(points) < 2:
        return None
    regions = [
        (str(p["name"]), float(p["start_token"]), float(p["end_token"]))
        for p in stage.outputs.get("phases") or []
    ]
    line = Series("loss", points, "--accent", style="noisy")
    chart = Chart(
        f"Loss of {stage.name} by tokens",
        [line],
        x_label="tokens",
        regions=regions,
    )
    return both_sizes(chart, (1000, 300), (354, 250))


def sft_losses(stages: list[StageFacts]) -> list[Panel]:
    """Loss by step, a panel a fine-tuning stage."""
    panels = []
    for stage in stages:
        points = stage.series("loss")
        if len(points) < 2:
            continue
        line = Series("loss", points, "--accent", style="noisy")
        chart = Chart(f"Loss of {stage.name} by step", [line], "step")
        last = points[-max(len(points) // 10, 1) :]
        end = sum(y for _, y in last) / len(last)
        panels.append(Panel(stage.name, draw(chart, 354, 230), f"ends near {end:.3g} nats/token"))
    return panels


def policy_panels(stage: StageFacts) -> list[Panel]:
    """Reward and trainer-engine mismatch of a GRPO stage by step."""
    rewards, mismatch = stage.series("reward"), stage.series("mismatch_kl")
    panels = []
    if len(rewards) > 1:
        line = Series("reward", rewards, "--accent", style="noisy")
        chart = Chart(f"Mean reward of the step's rollouts: {stage.name}", [line], x_label="step")
        panels.append(Panel("Reward of the step's rollouts", both_sizes(chart, _HALF, _NARROW)))
    positive = [(x, y) for x, y in mismatch if y > 0]
    if len(positive) > 1:
        line = Series("mismatch KL", positive, "--m1", style="noisy")
        chart = Chart(f"Mismatch KL: {stage.name}", [line], "step", y_log=True, y_format=_power)
        panels.append(
            Panel("Mismatch KL, engine against trainer", both_sizes(chart, _HALF, _NARROW))
        )
    return panels


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def spark(stage: StageFacts, name: str) -> Markup | None:
    """A small line of one metric."""
    points = stage.series(name)
    if len(points) < 2:
        return None
    chart = Chart(f"{name} of {stage.name}", [Series(name, points, "--accent")], x_label="step")
    return draw(chart, 300, 150)


@dataclass(frozen=True)
class BudgetRow:
    """Four pictures of one benchmark against the thinking budget."""

    benchmark: str
    n: int
    models: list[str]
    panels: list[Panel]


def budget_rows(facts: RunFacts) -> list[BudgetRow]:
    """Curves for each benchmark that was run with a budget other than 0 and none."""
    rows = []
    for benchmark in facts.benchmarks:
        found = [r for r in facts.results.values() if r.benchmark == benchmark]
        swept = {r.model for r in found if r.budget not in (None, 0)}
        found = [r for r in found if r.model in swept]
        if found:
            models = [m for m in facts.models if m in swept]
            n = min(r.estimate.n for r in found)
            rows.append(
                BudgetRow(label(benchmark), n, models, _budget_panels(facts, found, models))
            )
    return rows


def _budget_panels(facts: RunFacts, found: list[Result], models: list[str]) -> list[Panel]:
    budgets = sorted({r.budget for r in found if r.budget is not None})
    places = {budget: float(i) for i, budget in enumerate(budgets)}
    names = [str(b) for b in budgets]
    if any(r.budget is None for r in found):
        names.append(_UNLIMITED)

    def series(read: Callable[[Result], float], with_errors: bool = False) -> list[Series]:
        out = []
        for model in models:
            own = [r for r in found if r.model == model]
            own.sort(key=lambda r: math.inf if r.budget is None else r.budget)
            at = [float(len(budgets)) if r.budget is None else places[r.budget] for r in own]
            points = [(x, read(r)) for x, r in zip(at, own, strict=True)]
            errors = [(r.estimate.low, r.estimate.high) for r in own] if with_errors else []
            colour = f"--m{facts.models.index(model)}"
            out.append(Series(model, points, colour, errors, "points"))
        return out

    one = (0.0, 1.0)
    shown = (
        ("Accuracy", series(lambda r: r.estimate.value, True), one, percent),
        ("Thinking, tokens", series(lambda r: _tokens(r, "thinking")), None, compact),
        ("Answer, tokens", series(lambda r: _tokens(r, "answer")), None, compact),
        ("Well-formed", series(lambda r: float(r.data["well_formed_rate"])), one, percent),
    )
    panels = []
    for title, lines, y_range, y_format in shown:
        chart = Chart(title, lines, "thinking budget", names, y_range, y_format)
        panels.append(Panel(title, both_sizes(chart, _PANEL, _PHONE_PANEL)))
    return panels


def _tokens(result: Result, part: str) -> float:
    return float(result.data["tokens"][f"{part}_mean"])
