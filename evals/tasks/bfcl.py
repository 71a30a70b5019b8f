"""BFCL v3: single-turn, live and multi-turn categories, and the official aggregation.

Data, documents and checker are bfcl-eval's. The model calls tools natively (the leaderboard's "FC"
mode): documents go into the chat template, calls come back as JSON. Its other mode, for models whose
template knows no tools, is evals.tasks.bfcl_prompt.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark, Sampled
from evals.sources import Data, Loading, json_lines, package_folder
from evals.statistics import strata, weighted
from evals.tasks.bfcl_turns import MultiTurn
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
# Entries that no reply satisfies, by bfcl-eval 2025.6.16's own rules (they still count, as wrong).
UNSATISFIABLE = {
    "live_simple_106-63-0": "a required array whose list of allowed values is empty",
    "live_simple_112-68-0": "a required array whose list of allowed values is empty",
    "live_multiple_862-181-3": "a gold argument that the tool's document does not have",
    "live_multiple_964-207-0": "a required argument that the gold does not have",
    "multi_turn_base_154": "five user turns and gold for six, which the runner calls cut short",
}
_LANGUAGES = {"java": "Java", "javascript": "JavaScript"}
PROTOCOL = Sampled(
    temperature=0.6,
    top_p=0.95,
    max_tokens=32_768,
    source="model card: reasoning on, one run, JSON tool parser",
)
# BFCL's type names -> JSON schema's.
_JSON_TYPES = {
    "dict": "object", "float": "number", "double": "number", "long": "integer", "byte": "integer",
    "short": "integer", "char": "string", "tuple": "array", "any": "string", "list": "array",
    "String": "string", "bool": "boolean", "Boolean": "boolean", "Bigint": "integer",
    "HashMap": "object", "Hashtable": "object", "ArrayList": "array", "Array": "array",
    "Queue": "array", "Stack": "array",
}  # fmt: skip


def entries(category: str, benchmark: str = "bfcl-v3") -> list[dict[str, Any]]:
    """A category's entries with their gold (`ground_truth`, absent for relevance), in file order.

    Multi-turn entries have their tool documents filled in, as the official runner does.
    """
    folder = package_folder("bfcl_eval", benchmark) / "data"
    rows = json_lines(folder / f"BFCL_v3_{category}.json")
    gold = folder / "possible_answer" / f"BFCL_v3_{category}.json"
    if gold.is_file():
        answers = {row["id"]: row["ground_truth"] for row in json_lines(gold)}
        rows = [{**row, "ground_truth": answers[row["id"]]} for row in rows]
    if category in MULTI_TURN:
        return [_with_documents(row, folder) for row in rows]
    return rows


# Class of the simulated APIs -> its file of documents.
_DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control",
}  # fmt: skip


@cache
def _documents(folder: Path, name: str) -> list[dict[str, Any]]:
    return json_lines(folder / "multi_turn_func_doc" / f"{_DOCUMENTS[name]}.json")


def _with_documents(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    tools = [tool for name in row["involved_classes"] for tool in _documents(folder, name)]
    held: dict[str, list[dict[str, Any]]] = {}
    for turn, names in row.get("missed_function", {}).items():
        held[turn] = [next(tool for tool in tools if tool["name"] == name) for name in names]
        tools = [tool for tool in tools if tool["name"] not in names]
    return {**row, "function": tools, "missed_function": held}


def json_schema(tool: Mapping[str, Any], category: str = "simple") -> dict[str, Any]:
    """A BFCL document as a JSON-schema tool, as the prompt shows it.

    Java's and JavaScript's arguments are strings that hold source text, and the descriptions say so.
    """
    shown = deepcopy({k: v for k, v in tool.items() if k != "response"})
    language = _LANGUAGES.get(category)
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
    shown["parameters"] = _schema(shown["parameters"])
    return shown


def _schema(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, str):
            out[key] = _JSON_TYPES.get(value, value)
        elif key == "properties" and isinstance(value, dict):
            out[key] = {name: _schema(inner) for name, inner in value.items()}
        elif key == "items":
            out[key] = _schema(value)
        else:
            out[key] = value
    return out


def single_turn(entry: Mapping[str, Any], category: str) -> Conversation:
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
        messages=_system_first(entry["question"][0]),
        tools=[json_schema(tool, category) for tool in entry["function"]],
        check=CheckSpec("tools", entry.get("ground_truth"), options),
    )


def _system_first(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Live entries may hold several system messages; templates take one, in front."""
    system = [str(m["content"]) for m in messages if m["role"] == "system"]
    rest = [{k: m[k] for k in ("role", "content")} for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest] if system else rest


def multi_turn(entry: Mapping[str, Any], category: str) -> Conversation:
    """An entry of several turns; what the episode needs of it is in the check's options."""
    held = {
        turn: [json_schema(tool) for tool in tools]
        for turn, tools in entry["missed_function"].items()
    }
    played = {k: entry[k] for k in ("id", "question", "initial_config", "involved_classes")}
    played["missed_function"] = held
    return Conversation(
        id=str(entry["id"]),
        domain=category,
        messages=_system_first(entry["question"][0]),
        tools=[json_schema(tool) for tool in entry["function"]],
        check=CheckSpec("tools", entry["ground_truth"], {"entry": played}),
    )


def episode(question: Conversation) -> MultiTurn | None:
    """How a question is played: None for those of one turn."""
    return MultiTurn(question) if question.domain in MULTI_TURN else None


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
            chosen = entries(category, name)[: loading.limit]
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
        episode=episode if any(turns) else None,
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
