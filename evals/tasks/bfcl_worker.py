"""BFCL's simulated APIs and multi-turn checker, inside a checking process.

The official code keeps API instances in its module's globals by name: every play here has a name of
its own, and leaves nothing behind.
"""

import itertools
import os
import tempfile
from typing import Any

# Importing bfcl_eval's configuration makes result folders; keep them out of site-packages.
os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="bfcl-"))

from bfcl_eval.eval_checker.multi_turn_eval import (
    multi_turn_checker,
    multi_turn_utils,
)

_NUMBER = itertools.count()


def play(setup: dict[str, Any], steps: list[list[str]]) -> list[str]:
    """Run the steps in order on fresh APIs; the results of the last."""
    name = f"play{next(_NUMBER)}"
    results: list[str] = []
    try:
        for step in steps:
            results, _ = multi_turn_utils.execute_multi_turn_func_call(
                step,
                setup["initial_config"],
                setup["involved_classes"],
                name,
                setup["id"],
                long_context="long_context" in setup["id"],
            )
    finally:
        _forget(name)
    return [str(result) for result in results]


def judge(
    setup: dict[str, Any], turns: list[list[list[str]]], gold: list[list[str]]
) -> dict[str, Any]:
    """The official verdict on calls of each step of each turn."""
    name = f"judge{next(_NUMBER)}"
    category = str(setup["id"]).rsplit("_", 1)[0]
    try:
        found = multi_turn_checker.multi_turn_checker(turns, gold, setup, category, name)
    finally:
        _forget(name)
    return {"valid": bool(found["valid"]), "error_type": str(found.get("error_type", ""))}


def _forget(name: str) -> None:
    kept = vars(multi_turn_utils)
    for key in [key for key in kept if key.startswith(f"{name}_")]:
        del kept[key]
