"""The report's charts: which numbers stand in which picture."""

from markupsafe import Markup

from workbench.report.compare import Table
from workbench.report.panel import Panel
from workbench.report.read import StageFacts
from workbench.report.svg import Chart, Series, both_sizes, draw, percent

_PANEL = (236, 168)
_PHONE_PANEL = (160, 132)
_HALF = (490, 260)
_NARROW = (354, 230)


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
    """GRPO by step: reward, what a watching checker says, and mismatch. DPO by round, merges by alpha."""
    if stage.kind == "dpo":
        return _rounds(stage)
    if stage.kind == "merge":
        return _sweep(stage)
    rewards, mismatch = stage.series("reward"), stage.series("mismatch_kl")
    watched = stage.series("checker_reward")
    panels = []
    for title, line_points, colour in (
        ("Reward of the step's rollouts", rewards, "--accent"),
        ("Checker on the same replies, never trained on", watched, "--m1"),
    ):
        if len(line_points) > 1:
            line = Series("reward", line_points, colour, style="noisy")
            chart = Chart(f"{title}: {stage.name}", [line], x_label="step")
            panels.append(Panel(title, both_sizes(chart, _HALF, _NARROW)))
    positive = [(x, y) for x, y in mismatch if y > 0]
    if len(positive) > 1:
        line = Series("mismatch KL", positive, "--m1", style="noisy")
        chart = Chart(f"Mismatch KL: {stage.name}", [line], "step", y_log=True, y_format=_power)
        panels.append(
            Panel(
                "Mismatch KL, engine against trainer",
                both_sizes(chart, _HALF, _NARROW),
                "on the same weights and tokens: it should stay near 0",
            )
        )
    return panels


def _rounds(stage: StageFacts) -> list[Panel]:
    """Success while playing the training tasks, round by round, and the margin by step."""
    shares = [float(r["success"]) for r in stage.outputs.get("rounds") or []]
    panels = []
    if len(shares) > 1:
        names = [f"round {i + 1}" for i in range(len(shares))]
        line = Series(
            "success", [(float(i), y) for i, y in enumerate(shares)], "--accent", [], "points"
        )
        chart = Chart(
            f"Success on training tasks: {stage.name}", [line], "", names, (0.0, 1.0), percent
        )
        title = "Success while playing, before each round's training"
        panels.append(Panel(title, both_sizes(chart, _HALF, _NARROW)))
    margins = stage.series("pair_margin")
    if len(margins) > 1:
        line = Series("margin", margins, "--m1", style="noisy")
        chart = Chart(f"Margin of the pairs: {stage.name}", [line], x_label="step")
        panels.append(Panel("Margin of the pairs", both_sizes(chart, _HALF, _NARROW)))
    return panels


def _sweep(stage: StageFacts) -> list[Panel]:
    """The sweep's metric by alpha, with its interval."""
    rows = stage.outputs.get("sweep") or []
    if len(rows) < 2:
        return []
    values = [(float(row["alpha"]), float(row["score"])) for row in rows]
    errors = [(float(low), float(high)) for low, high in (row["ci95"] for row in rows)]
    metric = str(stage.outputs.get("metric"))
    line = Series(metric, values, "--accent", errors, "points")
    chart = Chart(f"{metric} by alpha: {stage.name}", [line], "alpha", y_format=percent)
    ends = stage.outputs.get("models") or {}
    title = f"{metric} by alpha"
    note = f"0 is {ends.get('alpha 0')}, 1 is {ends.get('alpha 1')}"
    return [Panel(title, both_sizes(chart, _HALF, _NARROW), note)]


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def spark(stage: StageFacts, name: str) -> Markup | None:
    """A small line of one metric."""
    points = stage.series(name)
    if len(points) < 2:
        return None
    chart = Chart(f"{name} of {stage.name}", [Series(name, points, "--accent")], x_label="step")
    return draw(chart, 300, 150)
