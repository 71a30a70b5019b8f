"""The report's charts: which numbers stand in which picture."""

from collections.abc import Mapping
from dataclasses import replace

from markupsafe import Markup

from reports.differences import Table
from reports.page import percent
from reports.read import StageFacts
from reports.svg import Chart, Panel, Series, draw
from workbench.panels import MetricPanel, PointsPanel
from workbench.records import Estimate
from workbench.registry import kinds

_COLOURS = {"main": "--accent", "second": "--m1"}
_QUARTER = {"wide": (236, 168), "narrow": (160, 132)}


def accuracy_panels(table: Table, off: Table) -> list[Panel]:
    """Accuracy by stage, one panel a benchmark; `off`: the same with reasoning off."""
    without = dict(off.rows)
    panels = []
    # Only the first and the last stage are written out; the legend has the colours of all.
    names = [m if m in (table.models[0], table.models[-1]) else "" for m in table.models]
    for name, cells in table.rows:
        places = {m: float(place) for place, m in enumerate(table.models)}
        shown = {m: cells[m].accuracy for m in table.models if m in cells}
        values = {places[m]: found for m, found in shown.items()}
        dots = {places[m]: f"--m{table.models.index(m)}" for m in shown}
        on = with_intervals("", values, "--faint", dots)
        shadow = without.get(name, {})
        dashed = [(places[m], shadow[m].accuracy.value) for m in table.models if m in shadow]
        series = [Series("reasoning off", dashed, "--off", style="dashed")] if dashed else []
        chart = Chart(
            f"Accuracy by stage: {name}",
            [*series, on],
            x_names=names,
            y_range=(0.0, 1.0),
            y_format=percent,
        )
        levels = [percent(found.value) for found in shown.values()]
        ends = f"{levels[0]} → {levels[-1]}" if len(levels) > 1 else ""
        panels.append(Panel(name, chart, ends, **_QUARTER))
    return panels


def with_intervals(
    name: str, values: dict[float, Estimate], colour: str, dots: Mapping[float, str] = {}
) -> Series:
    """A line of estimates with their intervals, at places from left to right; unknown ones left out.
    dots: the colour at each place, where it is not the line's."""
    known = {x: found for x, found in values.items() if found.value == found.value}
    # An end that is not known is the value itself.
    ends = [(low if low == low else e.value, high if high == high else e.value)
            for e in known.values() for low, high in [e.ci95]]  # fmt: skip
    points = [(x, found.value) for x, found in known.items()]
    return Series(name, points, colour, ends, "points", [dots[x] for x in known if dots])


def loss_panel(stage: StageFacts, x: str) -> Panel | None:
    """The loss of a stage whose kind shows it over `x`: tokens, with the blend's phases, or steps."""
    shown = any(panel.metric == "loss" and panel.x == x for panel in _declared(stage))
    points = stage.series("loss", x=x)
    if not shown or len(points) < 2:
        return None
    phases = stage.result.phases if x == "tokens" else []
    chart = Chart(
        f"Loss of {stage.name} by {x}",
        [Series("loss", points, "--accent", style="noisy")],
        x,
        regions=[(p.name, float(p.start_token), float(p.end_token)) for p in phases],
    )
    last = points[-max(len(points) // 10, 1) :]
    note = f"ends near {sum(y for _, y in last) / len(last):.3g} nats/token"
    if x == "tokens":
        return Panel(stage.name, chart, note, (1000, 300), (354, 250))
    return Panel(stage.name, chart, note, (354, 230), None)


def _declared(stage: StageFacts) -> tuple[MetricPanel, ...]:
    return kinds()[stage.kind].panels if stage.kind in kinds() else ()


def stage_panels(stage: StageFacts) -> list[Panel]:
    """The pictures that the stage's kind declares beside its loss, those of its own values first."""
    of_metrics = [_metric_panel(stage, p) for p in _declared(stage) if p.metric != "loss"]
    return [*(_points_panel(stage, p) for p in stage.result.panels), *(p for p in of_metrics if p)]


def _metric_panel(stage: StageFacts, panel: MetricPanel) -> Panel | None:
    points = [(x, y) for x, y in stage.series(panel.metric) if y > 0 or not panel.log]
    if len(points) < 2:
        return None
    line = Series(panel.metric, points, _COLOURS[panel.colour], style="noisy")
    chart = Chart(f"{panel.title}: {stage.name}", [line], "step", y_log=panel.log)
    return Panel(panel.title, replace(chart, y_format=_power) if panel.log else chart, panel.note)


def _points_panel(stage: StageFacts, panel: PointsPanel) -> Panel:
    line = with_intervals("", dict(zip(panel.x, panel.values, strict=True)), "--accent")
    chart = Chart(
        f"{panel.title}: {stage.name}", [line], panel.x_label, panel.x_names,
        (0.0, 1.0) if panel.whole else None,
    )  # fmt: skip
    return Panel(
        panel.title, replace(chart, y_format=percent) if panel.share else chart, panel.note
    )


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def spark(stage: StageFacts, name: str) -> Markup | None:
    """A small line of one metric."""
    points = stage.series(name)
    if len(points) < 2:
        return None
    chart = Chart(f"{name} of {stage.name}", [Series(name, points, "--accent")], x_label="step")
    return draw(chart, 300, 150)
