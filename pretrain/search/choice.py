"""Which candidate is picked, and the table that says why. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.presets import HybridShape
from workbench.errors import UserError
from workbench.records import UNKNOWN, Estimate, ModelDifference


@dataclass(frozen=True)
class Candidate:
    """One candidate as it was measured. memory_gib: at the load that had to fit; None where none is given."""

    name: str
    shape: HybridShape
    parameters: int
    accuracy: Estimate
    tokens_per_s: Estimate = UNKNOWN
    memory_gib: float | None = None
    by_benchmark: Mapping[str, float] = field(default_factory=dict)


def by_accuracy(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The most accurate first; of equal ones in the recipe's order."""
    return sorted(candidates, key=lambda c: -c.accuracy.value)


def pick(candidates: Sequence[Candidate], *, within: float, least: float | None) -> Candidate:
    """The fastest of those at most `within` below the most accurate; where throughput was not measured
    the most accurate. Only those with at least `least` tokens a second count.

    Raises: UserError where none has.
    """
    able = [c for c in candidates if least is None or c.tokens_per_s.value >= least]
    if not able:
        best = max(candidates, key=lambda c: c.tokens_per_s.value)
        raise UserError(
            f"no candidate reaches least_tokens_per_s {least:g}; the fastest, {best.name}, makes "
            f"{best.tokens_per_s.value:.1f}: lower it, or allow smaller candidates"
        )
    first = by_accuracy(able)[0]
    near = [c for c in able if c.accuracy.value >= first.accuracy.value - within]
    if any(c.tokens_per_s is UNKNOWN for c in near):
        return first
    return max(near, key=lambda c: c.tokens_per_s.value)


def markdown(
    name: str, candidates: Sequence[Candidate], found: Sequence[ModelDifference],
    picked: Candidate, rule: str,
) -> str:  # fmt: skip
    """The table as text, the most accurate first."""
    less = {one.model: one for one in found}
    lines = [
        f"# {name}", "", rule, "",
        "| candidate | layers | hidden | FFN | Mamba heads | parameters | GiB | accuracy, % (95%) "
        "| less the best, points (95%) | tokens/s (95%) | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for c in by_accuracy(candidates):
        s = c.shape
        change = less.get(c.name)
        cells = [
            c.name, str(len(s.pattern)), f"{s.hidden_size:,}", f"{s.intermediate_size:,}",
            str(s.mamba_num_heads), f"{c.parameters:,}",
            "-" if c.memory_gib is None else f"{c.memory_gib:.4g}",
            _shown(c.accuracy, 100), "-" if change is None else _shown(change.difference, 100, "+"),
            _shown(c.tokens_per_s, 1), "picked" if c is picked else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {one.model} less {one.against}: {one.note}" for one in found)]
    benchmarks = list(picked.by_benchmark)
    if len(benchmarks) > 1:
        lines += [
            "",
            f"| accuracy, % | {' | '.join(benchmarks)} |",
            f"| --- |{' --- |' * len(benchmarks)}",
        ]
        for c in by_accuracy(candidates):
            cells = [f"{100 * c.by_benchmark[one]:.1f}" for one in benchmarks]
            lines.append(f"| {c.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(value: Estimate, scale: float, sign: str = "") -> str:
    if value.value != value.value:
        return "-"
    middle = f"{scale * value.value:{sign}.1f}"
    if value.low != value.low:
        return middle
    return f"{middle} ({scale * value.low:{sign}.1f} to {scale * value.high:{sign}.1f})"
