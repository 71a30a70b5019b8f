"""BFCL v3 in prompting mode, for models whose chat template knows no tools.

The leaderboard's "Prompt" mode: bfcl-eval's own system message holds the documents and says how to
call, the template gets no tools, and the answer is read as Python calls (reward.python_calls). Data and
checker are those of the native mode (evals.tasks.bfcl).

One benchmark for each single-turn category in Python. Not here: Java, JavaScript, multi-turn and the
official overall, which would need all of them.
"""

from dataclasses import replace
from typing import Any

from evals.benchmark import Benchmark
from evals.sources import Data, Loading
from evals.tasks import bfcl
from reward import bfcl as package
from reward.workers import shared_pool
from workbench.conversation import CheckSpec, Conversation, Message
from workbench.errors import UserError

CATEGORIES = tuple(c for c in bfcl.SINGLE_TURN if c not in ("java", "javascript"))
# Making 1,053 prompts takes less than a second.
_TIMEOUT_S = 60.0
_PROTOCOL = replace(
    bfcl.PROTOCOL,
    source="BFCL's prompting mode, no native calls; sampling as in the native benchmarks "
    "(model card: reasoning on, one run)",
)


def questions(category: str, benchmark: str, limit: int | None = None) -> list[Conversation]:
    """A category's first `limit` entries as prompts with their checks.

    Raises: UserError where bfcl-eval is not installed or makes no prompts.
    """
    entries = package.entries(category)[:limit]
    prompts = _official_messages(entries, benchmark)
    return [
        _prompted(bfcl.single_turn(entry, category), messages)
        for entry, messages in zip(entries, prompts, strict=True)
    ]


def _official_messages(entries: list[dict[str, Any]], benchmark: str) -> list[list[Message]]:
    told = [{key: entry[key] for key in ("id", "question", "function")} for entry in entries]
    target = "evals.tasks.bfcl_prompt_worker:messages"
    made = shared_pool().call(target, [told], timeout_s=_TIMEOUT_S)
    if made.status != "ok":
        raise UserError(
            f"benchmark {benchmark!r}: bfcl-eval made no prompts ({made.reason}); it needs version "
            "2025.6.16 (requirements/cpu.txt)"
        )
    prompts: list[list[Message]] = made.value
    return prompts


def _prompted(native: Conversation, messages: list[Message]) -> Conversation:
    assert native.check is not None
    options = {**native.check.options, "syntax": "python"}
    check = CheckSpec(native.check.kind, native.check.reference, options)
    return replace(native, messages=messages, tools=None, check=check)


def _benchmark(category: str) -> Benchmark:
    name = f"bfcl-v3-{category.replace('_', '-')}-prompt"

    def load(loading: Loading) -> list[Conversation]:
        return questions(category, name, loading.limit)

    return Benchmark(
        name,
        f"BFCL v3, category {category}, tools and call format in the prompt",
        Data("package bfcl-eval 2025.6.16 (v3)", packages=("bfcl_eval",)),
        load,
        _PROTOCOL,
    )


BENCHMARKS = [_benchmark(category) for category in CATEGORIES]
