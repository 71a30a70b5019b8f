"""What stages of reinforcement learning and preferences leave in their manifests. Imports no torch."""

from typing import Any

from pydantic import Field

from data_mix.results import MadeData
from workbench.records import Number
from workbench.results import StageResult

Values = list[Number]
"""A value for each held-out question, null where it has none."""


class GrpoResult(StageResult):
    """Of GRPO. rows: what was taken of each source; held_out_*: rewards, and the checker's verdicts."""

    rows: dict[str, dict[str, Any]] = {}
    held_out_before: Values | None = None
    held_out_after: Values | None = None
    held_out_checker_before: Values | None = None
    held_out_checker_after: Values | None = None
    engine: dict[str, Any] = {}


class DpoResult(StageResult):
    """Of on-policy DPO. tasks: what was taken of each source; rounds: episodes and pairs of each."""

    tasks: dict[str, dict[str, Any]] = {}
    rounds: list[dict[str, Any]] = []
    held_out_before: Values | None = None
    held_out_after: Values | None = None
    engine: dict[str, Any] = {}


class PreferenceResult(StageResult):
    """Of a training on given preferences. rows: what was taken of each source."""

    rows: dict[str, dict[str, Any]] = {}


class RewardModelResult(StageResult):
    """Of a reward model. pairs: what was asked, sampled and paired of each source."""

    pairs: dict[str, dict[str, Any]] = {}


class RejectionResult(MadeData):
    """Of rejection sampling. prompts: what was taken of their source; came_to: what replies came to."""

    prompts: dict[str, Any] = {}
    came_to: dict[str, Any] = Field({}, alias="yield")


class OnPolicyDistillResult(StageResult):
    """Of on-policy distillation. rows: what was taken of each source; held_out_*: measure -> values."""

    rows: dict[str, dict[str, Any]] = {}
    held_out_before: dict[str, Any] | None = None
    held_out_after: dict[str, Any] | None = None
    engine: dict[str, Any] = {}


class MergeResult(StageResult):
    """Of a merge. models: the stage at each end; sweep: the score at each alpha; alpha: the best one."""

    metric: str = ""
    models: dict[str, str] = {}
    sweep: list[dict[str, Any]] = []
    alpha: float | None = None
