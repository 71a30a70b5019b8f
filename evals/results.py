"""What evaluation stages leave in their manifests; results of benchmarks are workbench.records. Imports no torch."""

from typing import Any

from data_mix.results import MadeData
from workbench.records import Number
from workbench.results import StageResult


class EvalsResult(StageResult):
    """Of a sweep over models of the run. accuracy: model -> mean over its benchmarks."""

    accuracy: dict[str, Number] = {}


class AblationResult(StageResult):
    """Of an ablation. tokens_by_source: arm -> source -> tokens, mean over seeds."""

    tokens_by_source: dict[str, dict[str, float]] = {}


class SynthesizeResult(MadeData):
    """Of written data. cost: model -> replies and tokens; models: who wrote."""

    cost: dict[str, dict[str, int]] = {}
    models: dict[str, Any] = {}
