"""BFCL v3: single-turn, live and multi-turn categories, and the official aggregation.

Data, documents and checker are bfcl-eval's. The model calls tools natively (the leaderboard's "FC"
mode): documents go into the chat template, calls come back as JSON. Its other mode, for models whose
template knows no tools, is evals.tasks.bfcl_prompt.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from environments.bfcl.tasks import task_of
from environments.bfcl.world import Bfcl
from environments.episode import as_question
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading
from evals.statistics import strata, weighted
from reward import bfcl
from workbench.conversation import CheckSpec, Conversation
from workbench.records import Estimate, Sample
from workbench.statistics import mean_interval

SIMPLE = ("simple", "java", "javascript")
NON_LIVE = (*SIMPLE, "multiple", "parallel", "parallel_multiple", "irrelevance")
LIVE = (
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance",
    "live_relevance",
)  # fmt: skip
MULTI_TURN = (
    "multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context",
)  # fmt: skip
SINGLE_TURN = (*NON_LIVE, *LIVE)
CATEGORIES = (*SINGLE_TURN, *MULTI_TURN)
_LANGUAGES = {"java": "Java", "javascript": "JavaScript"}
PROTOCOL = BenchmarkSampling(
    temperature=0.6,
    top_p=0.95,
    max_tokens=32_768,
    source="model card: reasoning on, one run, JSON tool parser",
)


def shown_tool(tool: Mapping[str, Any], category: str) -> dict[str, Any]:
    """A BFCL document as a JSON-schema tool, as the prompt shows it.

    Java's and JavaScript's arguments are strings that hold source text, and the descriptions say so.
    """
    language, shown = _LANGUAGES.get(category), deepcopy(dict(tool))
    if language:
        shown["description"] += f" Arguments are {language} source text, in strings."
        for schema in shown["parameters"]["properties"].values():
            kind = schema["type"] + (
                f" of {schema['items']['type']}" if "type" in schema.get("items", {}) else ""
            )
            note = f"{schema.get('description', '')} ({language} {kind}, as a string)"
            inner = schema.get("properties")
            if inner:
                note += f" Entries: {json.dumps(inner)}"
            schema.clear()
            schema |= {"type": "string", "description": note.strip()}
    return bfcl.json_schema(shown)


def single_turn(entry: bfcl.Entry, category: str) -> Conversation:
    """An entry of one turn with its check."""
    kind = category.removeprefix("live_")
    options: dict[str, Any] = {
        "tools": entry["function"],
        "category": "simple" if kind in _LANGUAGES else category,
        "answer_format": "possible",
    }
    if kind in _LANGUAGES:
        options["language"] = _LANGUAGES[kind]
    return Conversation(
        id=str(entry["id"]),
        domain=category,
        messages=bfcl.opening(entry),
        tools=[shown_tool(tool, category) for tool in entry["function"]],
        check=CheckSpec("tools", entry.get("ground_truth"), options),
    )


def multi_turn(entry: bfcl.Entry, category: str) -> Conversation:
    """An entry of several turns, whose check is the environment that plays it."""
    return as_question(task_of(entry), category)


def world(question: Conversation) -> Bfcl | None:
    """What a question is played in: None for those of one turn."""
    return Bfcl() if question.domain in MULTI_TURN else None


def official_overall(rows: Sequence[Sample]) -> dict[str, Estimate]:
    """BFCL v3's aggregation over the categories that were run, and each category.

    non_live: mean of (mean of simple, java, javascript), multiple, parallel, parallel_multiple and
    irrelevance. live: mean over all entries. multi_turn: mean of its four. overall: mean of the
    three groups; present only where all categories were run.
    """
    parts = strata(rows)
    out: dict[str, Estimate] = {}
    if set(NON_LIVE) <= set(parts):
        weights = {c: 0.2 for c in NON_LIVE} | {c: 0.2 / 3 for c in SIMPLE}
        out["non_live"] = weighted([(w, parts[c]) for c, w in weights.items()])
    if set(LIVE) <= set(parts):
        total = sum(parts[c].n for c in LIVE)
        out["live"] = weighted([(parts[c].n / total, parts[c]) for c in LIVE])
    if set(MULTI_TURN) <= set(parts):
        out["multi_turn"] = weighted([(0.25, parts[c]) for c in MULTI_TURN])
    if len(out) == 3:
        out = {"overall": weighted([(1 / 3, e) for e in out.values()]), **out}
    return {**out, **{name: parts[name] for name in CATEGORIES if name in parts}}


def _benchmark(name: str, categories: Sequence[str], about: str, headline: str) -> Benchmark:
    turns = [c in MULTI_TURN for c in categories]

    def load(loading: Loading) -> list[Conversation]:
        questions = []
        for category in categories:
            make = multi_turn if category in MULTI_TURN else single_turn
            chosen = bfcl.entries(category)[: loading.limit]
            questions += [make(entry, category) for entry in chosen]
        return questions

    def metrics(rows: Sequence[Sample]) -> dict[str, Estimate]:
        found = official_overall(rows)
        if headline not in found:  # a category without a scored sample
            found[headline] = mean_interval([])
        return found if len(categories) > 1 else {}

    return Benchmark(
        name,
        about,
        Data("package bfcl-eval 2025.6.16 (v3)", packages=("bfcl_eval",)),
        load,
        PROTOCOL,
        metrics=metrics,
        world=world if any(turns) else None,
        headline=headline if len(categories) > 1 else "accuracy",
        paper={"12B aligned": 66.98, "Qwen3-8B": 66.34, "Qwen3-14B": 68.01, "9B": 66.9}
        if name == "bfcl-v3"
        else {},
    )


BENCHMARKS = [
    _benchmark("bfcl-v3", CATEGORIES, "BFCL v3, all 17 categories, official overall", "overall"),
    _benchmark("bfcl-v3-non-live", NON_LIVE, "BFCL v3, written single-turn entries", "non_live"),
    _benchmark("bfcl-v3-live", LIVE, "BFCL v3, users' single-turn requests", "live"),
    _benchmark("bfcl-v3-multi-turn", MULTI_TURN, "BFCL v3, simulated APIs", "multi_turn"),
    *(
        _benchmark(f"bfcl-v3-{c.replace('_', '-')}", (c,), f"BFCL v3, category {c}", "accuracy")
        for c in CATEGORIES
    ),
]
