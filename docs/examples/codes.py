"""A benchmark of recall from text: `docs/examples/codes.py:short` and `:long` (recipes/miniature-ablation.yaml)."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from data_mix.world import long_context


def short() -> Iterator[dict[str, Any]]:
    """150 texts of about 500 characters (the miniature's 280 tokens), each with a code to be found in it."""
    return _codes(500)


def long() -> Iterator[dict[str, Any]]:
    """150 texts of about 1,000 characters (450 tokens)."""
    return _codes(1000)


def _codes(num_characters: int) -> Iterator[dict[str, Any]]:
    for index in range(150):
        asked = long_context(index, split="test", seed=0, num_characters=num_characters)
        assert asked.check is not None
        yield {
            "id": asked.id,
            "messages": asked.prompt,
            "check": asdict(asked.check),
            "domain": f"codes-{num_characters}",
            "problem": asked.problem,
        }
