"""Step `licence`: files whose licence is on a list, by their header, their own text, or the file beside them."""

from collections.abc import Sequence
from pathlib import Path

from data_mix.curate.config import LicenceStep
from data_mix.curate.licences import (
    Found,
    Licences,
    header_of,
    licence_files,
    read_texts,
    spdx_allowed,
    spdx_in,
)
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item


class Licence(RowStep):
    """Writes the column `license`."""

    def __init__(self, config: LicenceStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._allow = config.allow
        self._licences = Licences(read_texts(config.texts), config.allow)
        self._of_folder: dict[Path, list[Found]] = {}

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        text, path = item.row["text"], Path(item.row["path"])
        if expressions := spdx_in(text) or self._sidecar(path):
            item.row["license"] = _joined(expressions)
            allowed = all(spdx_allowed(one, self._allow) for one in expressions)
            return None if allowed else self.removed("not allowed")
        found = self._licences.of_text(header_of(text))
        found = found or self._beside(path)
        if not found:
            return self.removed("unknown")
        item.row["license"] = " AND ".join(one.id for one in found)
        if all(one.allowed(self._allow) for one in found):
            return None
        return self.removed("not allowed")

    def _sidecar(self, path: Path) -> list[str]:
        """The expressions of a file FILE.license, as REUSE has it."""
        file = path.with_name(f"{path.name}.license")
        if not file.is_file():
            return []
        return spdx_in(file.read_text(encoding="utf-8", errors="replace"))

    def _beside(self, path: Path) -> list[Found]:
        folder = path.parent
        if folder not in self._of_folder:
            found: list[Found] = []
            for file in licence_files(path):
                text = file.read_text(encoding="utf-8", errors="replace")
                # A file of which nothing can be told may hold anything.
                found += self._licences.of_text(text) or [Found(f"unknown {file.name}")]
            self._of_folder[folder] = found
        return self._of_folder[folder]


def _joined(expressions: Sequence[str]) -> str:
    """One expression that asks for all of them."""
    if len(expressions) == 1:
        return expressions[0]
    return " AND ".join(f"({one})" if " OR " in one else one for one in expressions)
