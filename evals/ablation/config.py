"""Recipe section of the stage kind `ablation`. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from data_mix.config import BlendConfig, PhaseConfig, SourceConfig
from workbench.recipe import StageConfig
from workbench.schema import Section, StageKeys


class ArmConfig(Section):
    """One arm: what differs in it."""

    blend: BlendConfig | None = None
    """Its data; null: the ablation's own `blend`."""
    share: dict[str, float] = Field(default_factory=dict)
    """Source -> its share of all tokens: every weight of the blend is taken down to make room, as the
    paper's Table 3 gives 5% to FR-SFT."""
    train: StageKeys = Field(default_factory=dict)
    """Keys of `train` that differ, such as row_tokens (Table 4)."""

    @model_validator(mode="after")
    def _leaves_room(self) -> "ArmConfig":
        total = sum(self.share.values())
        if total >= 1 or any(value <= 0 for value in self.share.values()):
            raise ValueError(f"shares {self.share} must be above 0 and leave room for the rest")
        return self


class AblationConfig(StageConfig):
    """Stage kind `ablation`: continued pretraining of one base by arms and seeds, benchmarks, one table.

    In a recipe it stands for its parts: a `pretrain` stage NAME-ARM-SEED for each arm and seed, a stage
    NAME-evals, and the table. Each resumes, and runs beside the others, like any stage.
    """

    kind: Literal["ablation"]
    base: str
    """The stage whose model every arm goes on from; it must be in `needs`."""
    arms: dict[str, ArmConfig] = Field(min_length=2)
    """Arm -> what differs. The others are compared with the first."""
    blend: BlendConfig | None = None
    """Data of the arms that have no blend of their own, and sources that `share` may name."""
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """A training of each arm for each; arms of one seed are paired."""
    train: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `pretrain`, for every arm; one core each by default."""
    benchmarks: list[str] = Field(default_factory=list)
    """Benchmarks of every arm's models and of the base."""
    evals: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `evals`, such as limit and samples."""
    held_out: dict[str, SourceConfig] = Field(default_factory=dict)
    """Name -> documents that nothing trains on; measured is how many bits a character takes, which shows
    more than a benchmark does where models are small."""
    held_out_documents: int = Field(100, ge=1)
    """Of each."""

    @model_validator(mode="after")
    def _fits(self) -> "AblationConfig":
        if self.base not in self.needs:
            raise ValueError(f"base {self.base!r} is not in `needs` ({', '.join(self.needs)})")
        if not self.benchmarks and not self.held_out:
            raise ValueError("nothing is measured; give benchmarks, held_out or both")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds {list(self.seeds)} repeat; a repeated seed is not a second measurement"
            )
        for name, arm in self.arms.items():
            own = arm.blend or self.blend
            if own is None:
                raise ValueError(f"arm {name!r} has no blend, and the ablation has none")
            unknown = set(arm.share) - set(own.sources)
            if unknown:
                raise ValueError(
                    f"arm {name!r}: share names {min(unknown)!r}, which is not a source of its blend"
                )
        return self

    def blend_of(self, arm: str) -> BlendConfig:
        """The arm's blend, its shares taken out of every weight."""
        own = self.arms[arm]
        blend = own.blend or self.blend
        assert blend is not None
        return with_shares(blend, own.share) if own.share else blend


def with_shares(blend: BlendConfig, share: dict[str, float]) -> BlendConfig:
    """The blend with these sources at these shares of every phase, and the rest as it was, less room."""
    phases = []
    for phase in blend.phases:
        rest = {name: weight for name, weight in phase.weights.items() if name not in share}
        scale = (1 - sum(share.values())) / sum(rest.values())
        weights = {name: weight * scale for name, weight in rest.items()}
        phases.append(PhaseConfig(until=phase.until, weights={**weights, **share}))
    return BlendConfig(sources=blend.sources, phases=phases)
