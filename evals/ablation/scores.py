"""Verdicts of models that a stage made of other stages compares, by arm and seed."""

from collections.abc import Mapping
from pathlib import Path

from workbench.records import questions_of, read_samples

ArmScores = dict[str, dict[tuple[int, str], tuple[float, str]]]
"""Arm -> (seed, question) -> (value, what the question asks)."""


def scores_of(out: Path, stages: Mapping[str, Mapping[int, str]], job: str) -> ArmScores:
    """What each arm's models scored. out: the run's folder of results. stages: arm -> seed -> the stage
    whose model it is. job: the folder of a benchmark's results."""
    return {
        arm: {
            (seed, key): (question.value, question.asks)
            for seed, stage in by_seed.items()
            for key, question in questions_of(read_samples(out / stage / job)).items()
        }
        for arm, by_seed in stages.items()
    }
