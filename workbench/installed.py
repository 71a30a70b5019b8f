"""What the environment must hold for a run: known before anything is written.

Imports nothing that is not Python's own.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import UserError

if TYPE_CHECKING:
    from workbench.registry import Kind

_ROOT = Path(__file__).resolve().parents[1]
_AROUND = "workbench.graph.execute:drive"


def is_ours(module: str) -> bool:
    """Whether a module is a part of this project: where one is missing, that is a bug."""
    top = module.partition(".")[0]
    return (_ROOT / top).is_dir() or (_ROOT / f"{top}.py").is_file()


def missing_line(what: str) -> str:
    """One line about an environment that cannot run this, naming the one that can.

    >>> missing_line("it lacks ray").partition(": ")[0].startswith("this needs another Python")
    True
    """
    own = Path(sys.prefix).resolve() == (_ROOT / ".venv").resolve()
    if own:
        return f"the environment {sys.prefix} is not whole: {what}; run `make setup`"
    made = (_ROOT / ".venv/bin/python").exists()
    first = "use" if made else "run `make setup`, which makes .venv, and then use"
    return f"this needs a different Python from {sys.executable}: {what}; {first} .venv/bin/python"


def require(
    kinds: Sequence[Kind], targets: Iterable[str], *, ray: bool, engine: bool = True
) -> None:
    """Whether what stages of these kinds, and these "package.module:name", import can be imported.

    vLLM counts where a kind generates: it is imported late. engine False: others generate. Looks for
    packages, and imports none.
    Raises: UserError naming those that are missing.
    """
    needed = third_party([*(kind.run for kind in kinds), *targets, _AROUND])
    needed |= {"ray"} if ray else set()
    needed |= {"vllm"} if engine and any(kind.engine for kind in kinds) else set()
    missing = sorted(name for name in needed if find_spec(name) is None)
    if missing:
        raise UserError(missing_line(f"it lacks {', '.join(missing)}"))


def third_party(targets: Iterable[str]) -> set[str]:
    """Top-level names of the packages that are imported as soon as these targets are.

    Imports inside functions and under a condition do not count: those packages may be optional.
    """
    waiting, seen, found = [t.partition(":")[0] for t in targets], set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        source = _source(module)
        if source is not None:
            waiting += [module.rpartition(".")[0], *_imports_at_once(source)]
        elif module and not is_ours(module) and module.split(".")[0] not in sys.stdlib_module_names:
            found.add(module.split(".")[0])
    return found


def _source(module: str) -> Path | None:
    path = _ROOT / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((p for p in candidates if p.is_file()), None)


def _imports_at_once(source: Path) -> Iterator[str]:
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if is_ours(node.module):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
