"""Step `fix_text`: text that was decoded by the wrong rule, mended by ftfy."""

from data_mix.curate.config import FixTextStep
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item


class FixText(RowStep):
    """Changes `text` where it is mojibake; quotes and ligatures stay as they are."""

    def __init__(self, config: FixTextStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        from ftfy import TextFixerConfig, fix_text  # noqa: PLC0415 - only where it is used

        self._mend = fix_text
        self._how = TextFixerConfig(
            uncurl_quotes=False, fix_latin_ligatures=False, normalization=None, unescape_html=False
        )

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        text = self._mend(item.row["text"], self._how)
        if text != item.row["text"]:
            item.row["text"] = text
            self.count(item, "texts mended")
        return None
