"""Recipe sections of quality scores. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from workbench.content import Reads
from workbench.recipe import StageConfig
from workbench.schema import Section


class QualityConfig(StageConfig):
    """Stage kind `quality`: learns ratings, and says how well on hosts that it has not seen."""

    kind: Literal["quality"]
    ratings: Annotated[str, Reads("stage")]
    """The stage in `needs` whose rows have a text and a rating, such as a synthesize stage of task
    `rubric`."""
    column: str = "score"
    """The column of ratings."""
    text_column: str = "text"
    """The column of texts."""
    host_column: str = "host"
    """Texts of one value are held out together, so that a site's style is not a clue; where a row has none, its
    id."""
    held_out: float = Field(0.2, gt=0, lt=1)
    """Share of the hosts that is measured on and not trained on."""
    threshold: float = 3.0
    """From which rating a text is wanted [paper: FineMath 3+, and 4+]."""
    buckets: int = Field(2**18, ge=2**10)
    """Hashed words and pairs of words."""
    penalty: float = Field(0.1, gt=0)
    """Of ridge regression."""


class ClassifierConfig(Section):
    """A classifier that a stage of kind `quality` trained."""

    type: Literal["stage"] = "stage"
    stage: Annotated[str, Reads("stage")]
    """The stage, which must be in `needs`."""


class HubClassifierConfig(Section):
    """A sequence classifier of Hugging Face with one output (a score), or several (their probabilities)."""

    type: Literal["hub"]
    checkpoint: Annotated[str, Reads("checkpoint")]
    """A folder, or a hub id such as HuggingFaceTB/finemath-classifier."""
    revision: str | None = None
    """A commit; null: the newest."""
    label: int = Field(0, ge=0)
    """Which output, where it has several."""
    max_tokens: int = Field(512, ge=8)
    """Texts are read up to there."""
    batch: int = Field(16, ge=1)
    """Texts in one forward pass."""
