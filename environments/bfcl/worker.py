"""BFCL's own executor and checker of several turns, inside a checking process.

The official code keeps its APIs in its module's globals by name. Every episode here has a name of its
own, and its APIs stay between steps in the process that played the last one.
"""

from collections import OrderedDict
from typing import Any

from reward.bfcl import official

# Episodes whose APIs stay. One that is pushed out, or comes to another process, is played again.
_MOST_KEPT = 32
_kept: OrderedDict[str, int] = OrderedDict()


def play(episode: str, entry: dict[str, Any], steps: list[list[str]]) -> list[str]:
    """The results of an episode's last step; the steps before it are played where they were not."""
    done = _kept.pop(episode, 0)
    if done >= len(steps):  # asked again, or asked for less
        _forget(episode)
        done = 0
    results: list[str] = []
    for step in steps[done:]:
        results, _ = _utils().execute_multi_turn_func_call(
            step,
            entry["initial_config"],
            entry["involved_classes"],
            episode,
            entry["id"],
            long_context="long_context" in entry["id"],
        )
    _kept[episode] = len(steps)
    if len(_kept) > _MOST_KEPT:
        _forget(_kept.popitem(last=False)[0])
    return [str(result) for result in results]


def judge(
    episode: str, entry: dict[str, Any], turns: list[list[list[str]]], gold: list[list[str]]
) -> dict[str, Any]:
    """The official verdict on the calls of each step of each turn, from fresh APIs."""
    checker = official("eval_checker.multi_turn_eval.multi_turn_checker").multi_turn_checker
    try:
        found = checker(turns, gold, entry, "", f"judged_{episode}")
    finally:
        _forget(f"judged_{episode}")
        _forget(episode)
        _kept.pop(episode, None)
    return {"valid": bool(found["valid"]), "error_type": str(found.get("error_type", ""))}


def _utils() -> Any:
    return official("eval_checker.multi_turn_eval.multi_turn_utils")


def _forget(name: str) -> None:
    kept = vars(_utils())
    for key in [key for key in kept if key.startswith(f"{name}_")]:
        del kept[key]
