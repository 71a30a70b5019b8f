"""What a run came to, in words and as a table for the terminal."""

from workbench.report.compare import Cell, gain_table, total_gains
from workbench.report.lifts import stage_lifts
from workbench.report.read import RunFacts
from workbench.report.svg import points
from workbench.statistics import mean_of_estimates


def verdict(facts: RunFacts) -> list[str]:
    """Sentences for the head of the report, the most important first."""
    lifts = [lift.sentence() for lift in stage_lifts(facts)]
    return _gain_sentences(facts) + lifts + _open_ends(facts)


def _gain_sentences(facts: RunFacts) -> list[str]:
    gains = total_gains(facts)
    if not gains:
        return []
    parts = [g.estimate for _, g in gains]
    mean = mean_of_estimates(parts) if len(parts) > 1 else parts[0]
    evaluated = [m for m in facts.models if any(key[0] == m for key in facts.results)]
    name, best = gains[0]
    what = f"mean accuracy over {len(gains)} benchmarks" if len(gains) > 1 else f"{name} accuracy"
    sentences = [
        f"From {evaluated[0]} to {evaluated[-1]}, {what} moved by {points(mean.value)} points (95% "
        f"interval {points(mean.low)} to {points(mean.high)}, n = {mean.n:,} questions)."
    ]
    if len(gains) > 1:
        up = sum(p.low > 0 for p in parts)
        down = sum(p.high < 0 for p in parts)
        most = f"; most in {name} ({points(best.estimate.value)})" if up else ""
        sentences.append(f"Clearly up in {up} of {len(gains)}, clearly down in {down}{most}.")
    return sentences


def _open_ends(facts: RunFacts) -> list[str]:
    """What is not done. Empty where every stage is."""
    out = []
    for status, word in (
        ("failed", "Failed"),
        ("unfinished", "Unfinished"),
        ("not started", "Not started"),
    ):
        names = [s.name for s in facts.stages.values() if s.status == status]
        if names:
            out.append(f"{word}: {', '.join(names)}.")
    return out


def summary_lines(facts: RunFacts) -> list[str]:
    """The table of what each stage gained, and the verdict, for the terminal."""
    table = gain_table(facts)
    lines = []
    if table.rows:
        lines.append(
            "accuracy in % ± half of its 95% interval; in brackets: points gained over the"
        )
        lines.append("stage before, * where the interval of that difference is clear of 0")
        width = max(len(name) for name, _ in table.rows)
        cells = {name: {m: _cell(c.get(m)) for m in table.models} for name, c in table.rows}
        widths = {m: max(len(m), *(len(c[m]) for c in cells.values())) for m in table.models}
        lines.append(
            f"{'':{width}}  {'n':>5}  " + "  ".join(f"{m:>{widths[m]}}" for m in table.models)
        )
        for name, row in table.rows:
            n = max(cell.accuracy.n for cell in row.values())
            shown = "  ".join(f"{cells[name][m]:>{widths[m]}}" for m in table.models)
            lines.append(f"{name:{width}}  {n:>5}  {shown}")
    return [*lines, *verdict(facts)]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    value = cell.accuracy
    text = f"{100 * value.value:.0f} ±{50 * (value.high - value.low):.0f}"
    if cell.gain is None:
        return text
    star = "*" if cell.gain.estimate.clear_of_zero else " "
    return f"{text} ({100 * cell.gain.estimate.value:+.0f}){star}"
