"""Step `language`: which language a text is in, by py3langid among a few."""

from typing import Any

from data_mix.curate.config import LanguageStep
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item
from workbench.errors import unknown_name

# The language of a page is that of its words: a beginning is enough, and equations say nothing of it.
_CHARACTERS = 4000


def identifier(among: tuple[str, ...]) -> Any:
    """py3langid, choosing among some languages. Raises: UserError where it does not know one."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415 - 5 MB of model

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    if unknown := [name for name in among if name not in found.nb_classes]:
        raise unknown_name("language", unknown[0], found.nb_classes)
    found.set_languages(list(among))
    return found


class Language(RowStep):
    """Writes the column `language`."""

    def __init__(self, config: LanguageStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._keep = set(config.keep)
        self._identifier = identifier(config.among)

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        language, _ = self._identifier.classify(item.row["text"][:_CHARACTERS])
        item.row["language"] = str(language)
        self.count(item, str(language))
        return self.removed(str(language)) if self._keep and language not in self._keep else None
