"""Verdicts for the scripted judge's server: what it is shown, and what it says."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.judge_server import Said

# The two replies as shown -> what the judge says.
Script = Callable[[str, str], Said]


def verdict(one: float, two: float, ranking: float = 3) -> str:
    """The text of a judge that can be read."""
    return f'So:\n{{"score_1": {one}, "score_2": {two}, "ranking": {ranking}}}'


def longer(first: str, second: str) -> Said:
    """An honest judge: the longer reply is better, equal lengths are equal."""
    one, two = 1 + 3 * (len(first) > len(second)), 1 + 3 * (len(second) > len(first))
    return Said(verdict(one, two, 3.5))


def shown(asked: Mapping[str, Any]) -> tuple[str, str]:
    """The two replies as they stand in a request; empty ones where it holds none."""
    prompt = str(asked["messages"][0]["content"])
    found = [
        re.search(rf"\[reply {n} (\w+)\]\n(.*?)\n\[/reply {n} \1\]", prompt, re.DOTALL)
        for n in (1, 2)
    ]
    first, second = ("" if m is None or m[2] == "(no answer)" else m[2] for m in found)
    return first, second


def say(script: Script) -> Callable[[dict[str, Any]], Said]:
    """For tests.judge_server."""
    return lambda asked: script(*shown(asked))
