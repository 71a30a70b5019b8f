"""What users name by file or module, loaded in this process: FILE.py:NAME or package.module:NAME."""

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from workbench.errors import UserError, one_line, unknown_name


def is_own(name: str) -> bool:
    """Whether a name in a recipe is a place of the user's: it has a colon, which our names never have."""
    return ":" in name


def target_of(path: str, *, what: str = "function") -> list[str]:
    """[file or module, name, folder of the command], absolute. Raises: UserError."""
    place, _, name = path.rpartition(":")
    if not place or not name.isidentifier():
        raise UserError(
            f"{what} {path!r}: write it as FILE.py:NAME or package.module:NAME, e.g. mine.py:score"
        )
    if not place.endswith(".py"):
        return [place, name, os.getcwd()]
    file = Path(place)
    if not file.is_file():
        raise UserError(f"{what} {path!r}: there is no file {str(file.resolve())!r}")
    return [str(file.resolve()), name, os.getcwd()]


def must_name(path: str, *, what: str = "function") -> None:
    """Looks at a file without running it. Raises: UserError where it is not there or defines no such name."""
    place, name, _ = target_of(path, what=what)
    if not place.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(place).read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{what} {path!r} cannot be loaded: {one_line(error)}") from None
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    loose = any(isinstance(node, ast.Import | ast.ImportFrom | ast.Assign) for node in tree.body)
    if name not in names and not (loose and name in ast.unparse(tree)):
        raise unknown_name(f"name in {place}", name, names)


def load_custom(path: str, *, what: str = "function") -> Any:
    """The named object, of code that is trusted to run in this process. Raises: UserError in one line."""
    place, name, folder = target_of(path, what=what)
    try:
        return load(place, name, folder)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything
        raise UserError(f"{what} {path!r} cannot be loaded: {one_line(error)}") from None


def load(place: str, name: str, folder: str) -> Any:
    """What a user's file or module calls `name`. Raises: whatever its import raises."""
    # A process outlives a change of the file: in a notebook, or between two stages of a run.
    stamp = Path(place).stat().st_mtime_ns if place.endswith(".py") else 0
    return _loaded(place, name, folder, stamp)


@cache
def _loaded(place: str, name: str, folder: str, stamp: int) -> Any:
    # Last on the path: a file of the user's must not take the place of an installed module.
    for more in (folder, str(Path(place).parent) if place.endswith(".py") else folder):
        if more not in sys.path:
            sys.path.append(more)
    module = _module(place, stamp)
    found = getattr(module, name, None)
    if found is None:
        public = [n for n in vars(module) if not n.startswith("_") and callable(vars(module)[n])]
        raise AttributeError(f"{place} has no {name!r}; it has {', '.join(public) or 'nothing'}")
    return found


def must_be_callable(found: Any, place: str, name: str) -> Callable[..., Any]:
    """The object where it can be called. Raises: TypeError."""
    if not callable(found):
        raise TypeError(
            f"{name!r} of {place} is {type(found).__name__} {found!r:.60}, not a function"
        )
    return found  # type: ignore[no-any-return]


@cache
def _module(place: str, stamp: int) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    own = f"plugin_{sha256(place.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(own, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module
