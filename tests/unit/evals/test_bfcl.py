"""BFCL v3 against bfcl-eval itself: gold, verdicts on wrong answers, the official aggregation."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import bfcl
from reward import check
from reward.bfcl import ast_checker
from reward.bfcl import entries as entries_of
from workbench.errors import UserError
from workbench.records import Sample, questions_of

# Entries of each category [facts of the package].
COUNTS = {
    "simple": 400, "java": 100, "javascript": 50, "multiple": 200, "parallel": 200,
    "parallel_multiple": 200, "irrelevance": 240, "live_simple": 258, "live_multiple": 1053,
    "live_parallel": 16, "live_parallel_multiple": 24, "live_irrelevance": 882,
    "live_relevance": 18,
}  # fmt: skip


def _value(allowed: Any) -> Any:
    if isinstance(allowed, dict):
        return {
            k: next(x for x in v if x != "") for k, v in allowed.items() if any(x != "" for x in v)
        }
    if isinstance(allowed, list):
        return [_value(item) if isinstance(item, dict) else item for item in allowed]
    return allowed


def _gold(entry: dict[str, Any], *, text: bool = False) -> list[dict[str, Any]]:
    """A reply that takes the first allowed value of each argument that has one."""
    documents = {tool["name"]: tool for tool in entry["function"]}
    calls = []
    for call in entry["ground_truth"]:
        for name, arguments in call.items():
            document = documents.get(name, entry["function"][0])
            given = {k: [v for v in allowed if v != ""] for k, allowed in arguments.items()}
            picked = {k: _value(values[0]) for k, values in given.items() if values}
            if text:
                picked = {k: v if isinstance(v, str) else json.dumps(v) for k, v in picked.items()}
            calls.append({"name": document["name"], "arguments": picked})
    return calls


def _reply(calls: list[dict[str, Any]]) -> str:
    return f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>"


def _verdict(question: Any, text: str) -> Any:
    spec = question.check
    return check(spec.kind, text, spec.reference, **spec.options)


def _official(entry: dict[str, Any], calls: list[dict[str, Any]], category: str) -> bool:
    language = {"java": "Java", "javascript": "JavaScript"}.get(category, "Python")
    output = [{c["name"]: c["arguments"]} for c in calls]
    try:
        found = ast_checker()(
            entry["function"], output, entry["ground_truth"], language, category, "m"
        )
    except (TypeError, AttributeError, KeyError, ValueError, IndexError):
        return False
    return bool(found["valid"])


@pytest.mark.parametrize("category", [c for c in COUNTS if not c.endswith("relevance")])
def test_verdicts_are_the_official_checkers(category: str) -> None:
    """A gold answer, one with a wrong name, one without its last argument, one with calls doubled.

    (That every satisfiable gold answer passes is tests/unit/reward/test_tools_bfcl.py's.)
    """
    entries = entries_of(category)
    assert len(entries) == COUNTS[category]
    passed = 0
    for entry in entries:
        question = bfcl.single_turn(entry, category)
        gold = _gold(entry, text=category in ("java", "javascript"))
        less = dict(list(gold[0]["arguments"].items())[:-1])
        for calls in (
            gold,
            [{**gold[0], "name": "another_function"}, *gold[1:]],
            [{**gold[0], "arguments": less}, *gold[1:]],
            [*gold, *gold],
        ):
            verdict = _verdict(question, _reply(calls))
            official = _official(entry, calls, category)
            assert (verdict.status, verdict.value) == ("ok", float(official)), entry["id"]
            passed += official
    assert 0.9 * len(entries) < passed < 3 * len(entries) or category == "java"


def test_relevance_and_irrelevance() -> None:
    for category in ("irrelevance", "live_irrelevance", "live_relevance"):
        entries = entries_of(category)
        assert len(entries) == COUNTS[category]
        wants_call = category == "live_relevance"
        for entry in entries[:20]:
            question = bfcl.single_turn(entry, category)
            call = _reply([{"name": "f", "arguments": {}}])
            assert _verdict(question, call).value == float(wants_call)
            assert _verdict(question, "I cannot do that.").value == float(not wants_call)
            # The official runner counts a call that cannot be read as no call.
            assert _verdict(question, "<TOOLCALL>[{oops</TOOLCALL>").value == float(not wants_call)


_LEADERBOARD = """
import csv, json, sys, types
from collections import defaultdict
from pathlib import Path
stub = types.ModuleType("bfcl_eval.constants.model_config")
shown = types.SimpleNamespace(display_name="m", url="", org="", license="", input_price=None, output_price=None)
stub.MODEL_CONFIG_MAPPING = defaultdict(lambda: shown)
sys.modules["bfcl_eval.constants.model_config"] = stub
from bfcl_eval.eval_checker import eval_runner_helper as helper
scores = {c: {"accuracy": a, "total_count": n} for c, (a, n) in json.load(sys.stdin).items()}
out = Path(sys.argv[1])
helper.generate_leaderboard_csv({"m": scores}, out)
rows = list(csv.DictReader((out / "data_overall.csv").open()))
print(json.dumps(rows[0]))
"""


def test_overall_is_the_official_aggregation(tmp_path: Path) -> None:
    """The same per-category accuracies through bfcl-eval's own leaderboard code."""
    counts = {**COUNTS, **dict.fromkeys(bfcl.MULTI_TURN, 200)}
    rows = [
        Sample(f"{category}_{i}", domain=category, value=float((i * 7 + k) % 11 < 3 + k % 6))
        for k, (category, n) in enumerate(counts.items())
        for i in range(n)
    ]
    found = bfcl.official_overall(rows)
    scores = {category: (found[category].value, counts[category]) for category in counts}
    done = subprocess.run(
        [sys.executable, "-c", _LEADERBOARD, str(tmp_path)],
        input=json.dumps(scores),
        capture_output=True,
        text=True,
        env={"BFCL_PROJECT_ROOT": str(tmp_path), "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    official = json.loads(done.stdout.strip().splitlines()[-1])

    def percent(name: str) -> float:
        return float(official[name].rstrip("%"))

    assert round(100 * found["overall"].value, 2) == percent("Overall Acc")
    assert round(100 * found["multi_turn"].value, 2) == percent("Multi Turn Acc")
    assert len(questions_of(rows)) == sum(counts.values())


def test_the_prompt_shows_json_schemas() -> None:
    java = entries_of("java")[1]
    shown = bfcl.single_turn(java, "java").tools
    assert shown is not None
    kinds = {p["type"] for t in shown for p in t["parameters"]["properties"].values()}
    assert kinds == {"string"}
    for category in ("simple", "live_multiple"):
        for entry in entries_of(category)[:100]:
            for tool in bfcl.single_turn(entry, category).tools or []:
                assert _types(tool["parameters"]) <= {
                    "object", "string", "integer", "number", "boolean", "array",
                }  # fmt: skip


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    own = {schema["type"]} if isinstance(schema.get("type"), str) else set()
    inner = [*schema.get("properties", {}).values(), schema.get("items")]
    return own.union(*(_types(node) for node in inner))


def test_a_missing_package_says_what_to_install() -> None:
    from evals.sources import package_folder

    with pytest.raises(UserError, match=r"'no_such_package'.*scripts/setup.sh evals"):
        package_folder("no_such_package", "bfcl-v3")
