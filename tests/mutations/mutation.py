"""One broken line, and the file that it breaks."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """A line to break. old occurs exactly once in file, a path from the repository's root.

    why: what would go wrong unseen. tests: files or node ids, one of which must fail. claim: the row
    of README's table that the named tests prove. limit_s: for all its tests; hangs: running into it
    counts as caught, for a break that makes the program wait for ever.

    Example: Mutation("mean", "stats.py", "/ n", "/ (n + 1)", "means are low", ("tests/test_stats.py",))
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]
    claim: str = ""
    limit_s: float = 240.0
    hangs: bool = False

    def broken(self, root: Path) -> str:
        """The file's text with the line broken. Raises: StaleMutation."""
        path = root / self.file
        if not path.is_file():
            raise StaleMutation(f"{self.name}: there is no file {self.file}")
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise StaleMutation(
                f"{self.name}: its text occurs {count} times in {self.file}, not once: {self.old!r:.80}"
            )
        changed = text.replace(self.old, self.new)
        if path.suffix == ".py":
            try:
                ast.parse(changed)
            except SyntaxError as error:
                raise StaleMutation(
                    f"{self.name}: the broken {self.file} is not Python: {error}"
                ) from None
        return changed

    def check(self, root: Path) -> None:
        """Raises: StaleMutation where the entry no longer fits the repository."""
        self.broken(root)
        for test in self.tests:
            if not (root / test.partition("::")[0]).exists():
                raise StaleMutation(f"{self.name}: there is no test file {test}")
        if not self.tests or self.old == self.new:
            raise StaleMutation(f"{self.name}: it names no test, or changes nothing")


class StaleMutation(ValueError):
    """An entry that no longer fits the repository; one line naming it."""


def stale(mutations: Sequence[Mutation], root: Path) -> list[str]:
    """A line for each entry that does not fit, and for each name used twice."""
    lines, seen = [], set[str]()
    for mutation in mutations:
        if mutation.name in seen:
            lines.append(f"{mutation.name}: two entries have this name")
        seen.add(mutation.name)
        try:
            mutation.check(root)
        except StaleMutation as error:
            lines.append(str(error))
    return lines
