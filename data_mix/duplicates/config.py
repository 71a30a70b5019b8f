"""Recipe section of the stage kind `dedup`. Imports no torch and reads no data."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_mix.data_stage import DataStageConfig
from workbench.content import Reads


class DedupConfig(DataStageConfig):
    """Stage kind `dedup`: rows of one or more stages without those that repeat an earlier one.

    Earlier: in `against`, then in the order of `inputs`, then in the order of rows. A row goes only where it
    is like a row that stays; that it is like another one that goes is not enough.
    """

    kind: Literal["dedup"]
    inputs: Annotated[list[str], Reads("stage")] = Field(min_length=1)
    """Stages whose rows are read and written; their columns must be the same."""
    against: Annotated[list[str], Reads("stage")] = Field(default_factory=list)
    """Stages whose rows all stay, and are not written: what was published, or is trained on already."""
    near: float | None = Field(0.8, gt=0.3, lt=1)
    """Jaccard similarity of runs of five words from which two texts are near duplicates; null: exact ones
    alone (same text but for case and blanks)."""
    bands: int = Field(20, ge=1, le=256)
    """Bands of the signature. Two texts are compared where one band agrees."""
    rows: int = Field(6, ge=1, le=64)
    """Numbers of a band. Of pairs with J = 0.8, 1 - (1 - 0.8^rows)^bands are compared: 99.8%."""

    @model_validator(mode="after")
    def _each_once(self) -> "DedupConfig":
        named = [*self.inputs, *self.against]
        if len(set(named)) < len(named):
            raise ValueError("a stage stands twice in inputs and against; name each once")
        return self
