"""Figures of the Nemotron Nano 2 paper (arXiv 2508.14444) to stand beside a run's own.

Only values seen as the paper's own are listed. A miniature's tasks are not the paper's benchmarks:
the columns say which domain a benchmark belongs to, nothing more.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperValue:
    """One figure: of which domain, benchmark and model, in percent, from which table."""

    domain: str
    benchmark: str
    model: str
    value: float
    source: str


_ALIGNED, _BASE = "12B aligned", "12B base"

PAPER: tuple[PaperValue, ...] = (
    PaperValue("math", "GSM8K", _BASE, 91.66, "Table 5"),
    PaperValue("math", "MATH", _BASE, 83.54, "Table 5"),
    PaperValue("math", "AIME-2024", _ALIGNED, 85.42, "Table 8"),
    PaperValue("math", "AIME-2025", _ALIGNED, 76.25, "Table 8"),
    PaperValue("math", "MATH-500", _ALIGNED, 97.75, "Table 8"),
    PaperValue("coding", "HumanEval+", _BASE, 61.03, "Table 5"),
    PaperValue("coding", "LiveCodeBench", _ALIGNED, 70.79, "Table 8"),
    PaperValue("science", "MMLU-Pro", _BASE, 63.98, "Table 5"),
    PaperValue("science", "GPQA-Diamond", _ALIGNED, 64.48, "Table 8"),
    PaperValue("tool calling", "BFCL v3", _ALIGNED, 66.98, "Table 8"),
    PaperValue("conversation", "IFEval (strict, instruction)", _ALIGNED, 89.81, "Table 8"),
    PaperValue("conversation", "Arena-Hard", _ALIGNED, 74.0, "Table 8"),
    PaperValue("long context", "RULER at 128k", _BASE, 84.74, "Table 5"),
    PaperValue("long context", "RULER at 128k", _ALIGNED, 83.36, "Table 8"),
)


def paper_values(domain: str) -> list[PaperValue]:
    """The paper's figures of a domain, base model first."""
    return [value for value in PAPER if value.domain == domain]
