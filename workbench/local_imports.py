"""The files that a file of a user's own imports from beside it: what its function depends on, too."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Anneal's own packages count by their declared versions (workbench.registry), never by their text.
_OURS = Path(__file__).resolve().parents[1]


def imported_files(file: Path) -> list[Path]:
    """Files that `file` imports from its folder or the command's, and those that they import, in order.

    Installed packages and Anneal's own are left out. A file that cannot be read imports nothing.
    """
    roots = (file.absolute().parent, Path(os.getcwd()))
    found: set[Path] = set()
    left = [file.absolute()]
    while left:
        for path in _named_by(left.pop(), roots):
            if path not in found and path != file.absolute() and not _is_ours(path):
                found.add(path)
                left.append(path)
    return sorted(found)


def _named_by(file: Path, roots: tuple[Path, ...]) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _first_place(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's own folder, each further one the folder above.
            places = (
                (file.parents[min(node.level, len(file.parents)) - 1],) if node.level else roots
            )
            names = [f"{node.module}.{a.name}" if node.module else a.name for a in node.names]
            for name in names or [node.module or ""]:
                yield from _first_place(name, places)


def _first_place(module: str, roots: tuple[Path, ...]) -> Iterator[Path]:
    """The files of a module and of the packages above it, in the first folder that has any."""
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names:
        return
    for root in roots:
        above = [root.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
        files = [f for p in above for f in (p / "__init__.py", p.with_suffix(".py")) if f.is_file()]
        if files:
            yield from files
            return


def _is_ours(path: Path) -> bool:
    resolved = path.resolve()
    if not resolved.is_relative_to(_OURS):
        return False
    top = _OURS / resolved.relative_to(_OURS).parts[0]
    return (top / "__init__.py").is_file()
