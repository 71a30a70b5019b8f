"""What supervised fine-tuning leaves in its manifest. Imports no torch."""

from typing import Any

from workbench.results import DataAccount, StageResult


class TrainingSet(DataAccount):
    """The samples of a training set by domain, and how they were prepared."""

    samples: dict[str, int]
    tokens: dict[str, int]
    loss_tokens: int = 0
    stripped_reasoning: int = 0
    truncated_traces: dict[str, Any] = {}
    dropped_longer: int = 0
    without_reply: dict[str, int] = {}
    left_out: dict[str, dict[str, int]] = {}
    rows: int = 0
    fill_rate: float = 0.0
    validation: dict[str, int] | None = None
    told_budgets: dict[str, int] | None = None
    """Samples that were told each budget."""


class SftResult(StageResult):
    """Of supervised fine-tuning."""

    data: TrainingSet | None = None
