"""What a run came to, in words and as a table for the terminal."""

from reports.differences import (
    Cell,
    Table,
    gain_table,
    questions,
    stage_differences,
    total_gains,
)
from reports.page import points, span
from reports.read import RunFacts
from workbench.records import Estimate
from workbench.statistics import mean_of_estimates


def verdict(facts: RunFacts) -> list[str]:
    """Sentences for the head of the report, the most important first."""
    return [
        *_gain_sentences(facts),
        *_harm_sentences(facts),
        *(difference.sentence() for difference in stage_differences(facts)),
        *_validation_sentences(facts),
        *_fork_sentences(facts),
        *_stale_sentences(facts),
        *_open_ends(facts),
    ]


def _gain_sentences(facts: RunFacts) -> list[str]:
    gains = total_gains(facts)
    if not gains:
        return []
    parts = [g.difference for _, g in gains]
    evaluated, (name, best) = facts.evaluated, gains[0]
    what = f"mean accuracy over {len(gains)} benchmarks" if len(gains) > 1 else f"{name} accuracy"
    sentences = [
        f"From {evaluated[0]} to {evaluated[-1]}, {what} moved by "
        f"{_in_words(mean_of_estimates(parts), ' questions')}."
    ]
    if len(gains) > 1:
        up = sum(p.low > 0 for p in parts)
        down = sum(p.high < 0 for p in parts)
        most = f"; most in {name} ({points(best.difference.value)})" if up else ""
        sentences.append(f"Clearly up in {up} of {len(gains)}, clearly down in {down}{most}.")
    return sentences


def _harm_sentences(facts: RunFacts) -> list[str]:
    """Where the last model is clearly worse than the one it was made from, the mean first."""
    if not facts.evaluated:
        return []
    last = facts.evaluated[-1]
    rows = [(name, cells[last].gain) for name, cells in gain_table(facts).rows if last in cells]
    lost = [(name, gain) for name, gain in rows if gain is not None and gain.difference.high < 0]
    if not lost:
        return []
    lost.sort(key=lambda item: (item[0] != "mean", item[1].difference.value))
    against = lost[0][1].against  # a model has one parent
    shown = "; ".join(f"{name} {_in_words(gain.difference)}" for name, gain in lost)
    what = "did harm" if lost[0][0] == rows[-1][0] else "lost something"
    return [f"The last stage {what}: from {against} to {last}, clearly down in {shown}."]


def _validation_sentences(facts: RunFacts) -> list[str]:
    """Of each stage that was validated: its best, which weights it kept, and an early end."""
    out = []
    for stage in facts.stages.values():
        found = stage.result.validation
        if found is None or found.best_step is None:
            continue
        best = found.at(found.best_step)
        if best is None:
            continue
        kept = "whose weights are kept" if found.keep == "best" else "the last weights are kept"
        end = f"; ended early at step {max(found.steps)}" if found.ended_early else ""
        start = "; no later step was better than the start" if found.best_step == 0 else ""
        out.append(
            f"{stage.name}: best of {len(found.steps)} validations at step {found.best_step}, {found.by} "
            f"{best.value:.3g} (95% {best.low:.3g} to {best.high:.3g}), {kept}{end}{start}."
        )
    return out


def _fork_sentences(facts: RunFacts) -> list[str]:
    found = [(s.name, origin) for s in facts.stages.values() if (origin := s.result.forked_from)]
    return [
        f"{name} begins at step {origin.step} of {origin.stage} in {origin.run}"
        f"{'' if origin.optimizer else ', with its weights alone'}."
        for name, origin in found
    ]


def _in_words(gain: Estimate, unit: str = "") -> str:
    return (
        f"{points(gain.value)} points (95% interval {span(gain, gain=True)}, n = {gain.n:,}{unit})"
    )


def _stale_sentences(facts: RunFacts) -> list[str]:
    stale = {result.model for result in facts.results.values() if result.stale}
    if not stale:
        return []
    names = ", ".join(model for model in facts.models if model in stale)
    return [
        f"Of an earlier checkpoint, and in no gain: evaluations of {names}, whose stage was run again "
        "since; run the evals stage, or the sweep, again."
    ]


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
    return [*_table_lines(table), *verdict(facts)]


def _table_lines(table: Table) -> list[str]:
    if not table.rows:
        return []
    lines = [
        "accuracy in % ± half of its 95% interval; in brackets: points gained over the",
        "stage before, * where the interval of that difference is clear of 0",
    ]
    cells = {name: {m: _cell(row.get(m)) for m in table.models} for name, row in table.rows}
    counts = {name: questions(row.values()) for name, row in table.rows}
    width, n_width = max(map(len, cells)), max(5, *map(len, counts.values()))
    widths = {m: max(len(m), *(len(c[m]) for c in cells.values())) for m in table.models}
    head = "  ".join(f"{m:>{widths[m]}}" for m in table.models)
    lines.append(f"{'':{width}}  {'n':>{n_width}}  {head}")
    for name, shown in cells.items():
        row = "  ".join(f"{shown[m]:>{widths[m]}}" for m in table.models)
        lines.append(f"{name:{width}}  {counts[name]:>{n_width}}  {row}")
    for name, found in table.rows:
        if len({cell.accuracy.n for cell in found.values()}) > 1:
            each = ", ".join(f"{m} {c.accuracy.n:,}" for m, c in found.items())
            lines.append(f"{name}: questions differ ({each}); a gain is over those that both have")
    if any(cell.stale for _, row in table.rows for cell in row.values()):
        lines.append("† of an earlier checkpoint: in no gain and no mean")
    return lines


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    value = cell.accuracy
    text = (
        f"{100 * value.value:.0f} ±{50 * (value.high - value.low):.0f}{'†' if cell.stale else ''}"
    )
    if cell.gain is None:
        return text
    gain = cell.gain.difference
    return f"{text} ({100 * gain.value:+.0f}){'*' if gain.clear_of_zero else ' '}"
