"""Step `code`: source files that are not generated, not data, not stubs, and not broken."""

from collections.abc import Iterator, Mapping

from data_mix.curate.code_measures import CODE, TEXT, Measure, generated, of_tree, tree_of
from data_mix.curate.code_text import SourceText, is_lock_file, language_of
from data_mix.curate.config import CodeStep, Limits
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item

# Limits that are not meant for a language [OpenCoder]: shell scripts are made of strings; SQL of numbers.
_NOT_MEANT = {
    "bash": {"strings", "long_string_lines", "assert_lines"},
    "sql": {"digits"},
    "go": {"assert_lines"},
}


class Code(RowStep):
    """Writes the column `programming_language`. What is dear is measured last."""

    def __init__(self, config: CodeStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config = config

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        path, config = item.row["path"], self._config
        if config.generated == "remove" and is_lock_file(path):
            return self.removed("generated")
        language = language_of(path)
        if language is None:
            return self.removed("language unknown")
        if config.languages and language.name not in config.languages:
            return self.removed("another language")
        item.row["programming_language"] = language.name
        source = SourceText(item.row["text"], language)
        if config.generated == "remove" and generated(source.text):
            return self.removed("generated")
        reason = next(self._broken(source), None)
        return None if reason is None else self.removed(reason)

    def _broken(self, source: SourceText) -> Iterator[str]:
        """The limits that a file breaks."""
        form = source.language.form
        limits: dict[str, Limits] = dict(getattr(self._config, form))
        for name in _NOT_MEANT.get(source.language.name, ()):
            limits.pop(name)
        yield from _measured(source, TEXT, limits)
        yield from _measured(source, CODE, limits)
        if source.language.name == "python":
            yield from self._broken_python(source)

    def _broken_python(self, source: SourceText) -> Iterator[str]:
        tree = tree_of(source.text)
        if tree is None:
            if self._config.unparsed == "remove":
                yield "not Python 3"
            return
        found = of_tree(tree, len(source.code_lines))
        for name, limits in self._config.python:
            yield from _outside(name, found[name], limits)


def _measured(
    source: SourceText, measures: Mapping[str, Measure], limits: Mapping[str, Limits]
) -> Iterator[str]:
    for name, measure in measures.items():
        if limits.get(name, (None, None)) != (None, None):
            yield from _outside(name, measure(source), limits[name])


def _outside(name: str, value: float | None, limits: Limits) -> Iterator[str]:
    """Why a value is outside its limits."""
    least, most = limits
    if value is not None and least is not None and value < least:
        yield f"{name} below {least:g}"
    if value is not None and most is not None and value > most:
        yield f"{name} above {most:g}"
