"""A stage kind of one's own: it counts words. `kind: docs/examples/custom_kind.py:KIND` in a recipe."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from workbench.content import Reads
from workbench.recipe import StageConfig
from workbench.registry import Kind
from workbench.stage import StagePlan


class Config(StageConfig):
    """Its keys in the recipe, beside `kind` and `needs`."""

    path: Annotated[str, Reads("files")]
    """A text; where it changes the stage runs again."""
    least: int = 2
    """Fewest times that a word must stand in it."""


def plan(config, recipe):
    return StagePlan(lines=(f"words with {config.least} or more places in {config.path}",))


def run(context):
    words = Counter(Path(context.config.path).read_text().split())
    kept = {word: n for word, n in words.items() if n >= context.config.least}
    context.note(counts=dict(sorted(kept.items())))


KIND = Kind(config=":Config", run=":run", plan=":plan", about="counts words", version=1)
