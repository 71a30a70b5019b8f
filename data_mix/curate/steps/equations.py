"""Step `equations`: TeX in place of every notation of equations, before any renderer runs."""

from data_mix.curate.config import EquationsStep
from data_mix.curate.equations import Page
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item


class Equations(RowStep):
    """Changes `html`, and lists its equations in the column `equations`."""

    def __init__(self, config: EquationsStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config = config

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        page = Page(item.row["html"], pandoc=self._config.bare == "pandoc")
        if len(page.found) < self._config.least:
            return self.removed("too few equations")
        item.row["html"] = page.html
        item.row["equations"] = page.found
        self.count(item, "equations", len(page.found))
        self.count(item, "MathML that is not TeX", page.unread)
        for notation, number in page.by_notation.items():
            self.count(item, f"from {notation}", number)
        return None
