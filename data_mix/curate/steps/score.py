"""A score of each text, and whether it is high enough."""

from collections.abc import Sequence

from data_mix.curate.config import ScoreStep
from data_mix.curate.step import CurateStep, Decision
from data_mix.quality.scorers import open_scorer
from data_mix.scatter import ShardJob
from data_mix.shards import Item
from data_mix.where import meets


class Score(CurateStep):
    """Scores a batch at once: a classifier of transformers is ten times as fast on many."""

    def __init__(self, config: ScoreStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config, self._scorer = config, open_scorer(config.by)

    def decide(self, items: Sequence[Item]) -> list[Decision]:
        """See CurateStep."""
        scores = self._scorer.score([str(item.row["text"]) for item in items])
        found: list[Decision] = []
        for item, score in zip(items, scores, strict=True):
            item.row[self._config.name] = float(score)
            item.counts[f"{self.name}/{round(score)}"] += 1
            keep = self._config.keep
            found.append(
                self.removed("below") if keep is not None and not meets(score, keep) else None
            )
        return found
