"""What the environment must hold for a run: known before anything is written.

Imports nothing that is not Python's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from workbench.errors import UserError

_ROOT = Path(__file__).resolve().parents[1]
_AROUND = ("workbench.graph.execute:drive",)
_ENGINE = "engine.vllm_engine"  # it imports vllm late, for that takes seconds


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
    return f"this needs another Python than {sys.executable}: {what}; {first} .venv/bin/python"


def require(targets: Iterable[str], *, ray: bool) -> None:
    """Whether everything that these "package.module:name" import at once can be imported.

    Looks for packages, and imports none. Raises: UserError naming those that are missing.
    """
    from workbench.provenance import closure, third_party  # noqa: PLC0415 - of Python 3.11

    targets = [*targets, *_AROUND]
    needed = third_party(targets) | ({"ray"} if ray else set())
    if any(_ENGINE in closure(target) for target in targets):
        needed.add("vllm")
    missing = sorted(name for name in needed if find_spec(name) is None)
    if missing:
        raise UserError(missing_line(f"it lacks {', '.join(missing)}"))
