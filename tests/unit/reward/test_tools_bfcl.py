"""Parity with bfcl-eval: the gold answers it ships pass, category by category."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from reward import check

# Entries no output can satisfy, by bfcl-eval 2025.6.16's own rules: a required array whose allowed
# list is empty (live_simple), a required argument absent from the gold, and a gold argument absent
# from the tool's document (live_multiple).
UNSATISFIABLE = {
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}
# Number of entries by category [facts of the package].
CATEGORIES = {
    "simple": 400,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
}


def _rows(name: str) -> list[dict[str, Any]]:
    found = importlib.util.find_spec("bfcl_eval")
    assert found is not None and found.submodule_search_locations
    path = Path(next(iter(found.submodule_search_locations))) / "data" / name
    return [json.loads(line) for line in path.read_text().splitlines()]


def _value(allowed: Any) -> Any:
    if isinstance(allowed, dict):
        return {
            k: next(x for x in v if x != "") for k, v in allowed.items() if any(x != "" for x in v)
        }
    if isinstance(allowed, list):
        return [_value(item) if isinstance(item, dict) else item for item in allowed]
    return allowed


def _gold_calls(
    entry: dict[str, Any], gold: list[dict[str, Any]], *, empty_first: bool
) -> list[dict[str, Any]]:
    """The first allowed value of each argument; "" means "leave out", or is a value itself."""
    docs = {f["name"]: f for f in entry["function"]}
    calls = []
    for call in gold:
        for name, arguments in call.items():
            doc = docs.get(name, entry["function"][0])
            picked = {}
            for key, allowed in arguments.items():
                required = key in doc["parameters"]["required"]
                given = [v for v in allowed if v != ""]
                if key not in doc["parameters"]["properties"] and "" in allowed:
                    continue
                if allowed and (not given or (empty_first and allowed[0] == "")):
                    if required:
                        picked[key] = ""
                elif given:
                    picked[key] = _value(given[0])
            calls.append({"name": doc["name"], "arguments": picked})
    return calls


def _passes(entry: dict[str, Any], gold: list[dict[str, Any]], category: str) -> bool:
    for empty_first in (False, True):
        calls = json.dumps(_gold_calls(entry, gold, empty_first=empty_first))
        verdict = check(
            "tools",
            f"<TOOLCALL>{calls}</TOOLCALL>",
            gold,
            tools=entry["function"],
            category=category,
            answer_format="possible",
        )
        if verdict.value == 1.0:
            return True
    return False


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_satisfiable_gold_answer_passes(category: str) -> None:
    entries = {row["id"]: row for row in _rows(f"BFCL_v3_{category}.json")}
    golds = _rows(f"possible_answer/BFCL_v3_{category}.json")
    failed = {
        row["id"] for row in golds if not _passes(entries[row["id"]], row["ground_truth"], category)
    }
    expected = {name for name in UNSATISFIABLE if name.rpartition("_")[0] == category}
    assert failed == expected
    assert len(golds) == CATEGORIES[category]


def test_a_changed_value_or_name_fails() -> None:
    """Every simple entry fails once its function's name, or one value, is another."""
    entries = {row["id"]: row for row in _rows("BFCL_v3_simple.json")}
    for row in _rows("possible_answer/BFCL_v3_simple.json"):
        entry = entries[row["id"]]
        [call] = _gold_calls(entry, row["ground_truth"], empty_first=False)
        key = next(iter(call["arguments"]))
        for wrong in (
            {**call, "name": "another_function"},
            {**call, "arguments": {**call["arguments"], key: "certainly not this"}},
            {**call, "arguments": {**call["arguments"], "unasked": 1}},
        ):
            text = f"<TOOLCALL>{json.dumps([wrong])}</TOOLCALL>"
            verdict = check(
                "tools",
                text,
                row["ground_truth"],
                tools=entry["function"],
                category="simple",
                answer_format="possible",
            )
            assert verdict.value == 0.0, (row["id"], wrong)


def test_irrelevance_wants_no_call() -> None:
    for row in _rows("BFCL_v3_irrelevance.json"):
        options = {"tools": row["function"], "category": "irrelevance"}
        assert check("tools", "None of the tools fits.", None, **options).value == 1.0
        name = row["function"][0]["name"]
        call = f'<TOOLCALL>[{{"name": "{name}", "arguments": {{}}}}]</TOOLCALL>'
        assert check("tools", call, None, **options).value == 0.0
