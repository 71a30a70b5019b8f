"""What stages that build and compress a base model leave in their manifests. Imports no torch."""

from typing import Any

from data_mix.results import BlendAccount
from workbench.results import StageResult


class TokenizerResult(StageResult):
    """Of a tokenizer."""

    vocab_size: int = 0


class ConvertResult(StageResult):
    """Of a converted model. source: what its file or folder says of itself."""

    source: dict[str, Any] = {}


class PretrainResult(StageResult):
    """Of a training on a blend."""

    data: BlendAccount | None = None


class DistillResult(PretrainResult):
    """Of a distillation. held_out_before: figures by batch of rows, until the stage is done."""

    held_out_before: dict[str, list[float]] | None = None
    distance: dict[str, Any] = {}


class PruneResult(StageResult):
    """Of a pruning. removed_layers: round by round. kept: what stays of the Mamba heads. target: the sizes.
    random_kl: of each random choice of the same sizes, nats from the unpruned model."""

    parameters_before: int | None = None
    removed_layers: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    pattern: str = ""
    target: dict[str, Any] = {}
    random_kl: list[float] = []


class SearchResult(StageResult):
    """Of a search over candidates. picked: the best one; tokens_per_s: candidate -> rounds."""

    picked: str = ""
    tokens_per_s: dict[str, list[float]] = {}
