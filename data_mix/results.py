"""What stages that draw or make data say of it in their manifests. Imports no torch."""

from typing import Any

from workbench.results import Account, DataAccount, StageResult


class DrawnSource(Account):
    """A source in a phase. weight: the share that was asked for; share: that which it has of the tokens."""

    weight: float
    share: float
    samples: int
    tokens: int


class DrawnPhase(Account):
    """A phase of a blend, until a share of the training."""

    until: float
    tokens: int
    sources: dict[str, DrawnSource]


class BlendAccount(DataAccount):
    """What a blend gave, phase by phase, and what cleaning removed from each source."""

    phases: list[DrawnPhase]
    cleaning: dict[str, dict[str, Any]] = {}


class FunnelStep(Account):
    """Rows that came through a step, and reason by reason those that did not."""

    step: str
    rows: int
    removed: dict[str, int]
    failed: dict[str, int]
    characters: int


class FunnelAccount(DataAccount):
    """Rows in and out of a stage that makes data, and what became of the others."""

    rows_in: int
    funnel: list[FunnelStep]
    kept: int = 0
    rows_out: int = 0
    removed: dict[str, int] = {}
    failed: dict[str, int] = {}
    counts: dict[str, int] = {}
    columns: dict[str, str] = {}
    shards: int = 0
    bytes: int = 0
    characters_in: int = 0
    sizes: dict[str, int] = {}
    seconds: dict[str, float] = {}


class MadeData(StageResult):
    """Of stages that make data."""

    data: FunnelAccount | None = None


class QualityResult(StageResult):
    """Of a trained classifier of quality: how it agrees with ratings of hosts that it has not seen."""

    quality: dict[str, Any] = {}
    texts: int = 0
    hosts: int = 0
