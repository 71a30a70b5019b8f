"""BFCL's prompting mode against bfcl-eval itself: messages, decoded calls, verdicts."""

import importlib
import os
import random
import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from evals.registry import benchmark
from evals.sources import Loading
from evals.tasks import bfcl, bfcl_prompt
from evals.tasks.bfcl_prompt_worker import official
from reward import check
from reward.bfcl import UNSATISFIABLE, ast_checker, gold_calls
from reward.bfcl import entries as entries_of
from reward.python_calls import python_calls

GOLD = [c for c in bfcl_prompt.CATEGORIES if not c.endswith("relevance")]
RELEVANCE = [c for c in bfcl_prompt.CATEGORIES if c.endswith("relevance")]


def _stand_in(**names: Any) -> types.ModuleType:
    module = types.ModuleType("stand-in")
    vars(module).update(names)
    return module


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package's handler of local models, which every model in "Prompt" mode goes through."""
    stand_ins = {
        "openai": _stand_in(OpenAI=None),
        "overrides": _stand_in(EnforceOverrides=object, final=lambda f: f, override=lambda f: f),
        "tenacity": mock.MagicMock(),
        "bfcl_eval.model_handler.parser.java_parser": mock.MagicMock(),
        "bfcl_eval.model_handler.parser.js_parser": mock.MagicMock(),
    }
    # Its import makes result folders.
    root = {"BFCL_PROJECT_ROOT": str(tmp_path_factory.mktemp("bfcl"))}
    with mock.patch.dict(os.environ, root), mock.patch.dict(sys.modules, stand_ins):
        module = importlib.import_module("bfcl_eval.model_handler.local_inference.base_oss_handler")
        return object.__new__(module.OSSHandler)


@pytest.mark.parametrize("category", bfcl_prompt.CATEGORIES)
def test_the_messages_are_the_official_ones(category: str, handler: Any) -> None:
    name = f"bfcl-v3-{category.replace('_', '-')}-prompt"
    questions = benchmark(name).load(Loading(Path()))
    entries = entries_of(category)
    assert [q.id for q in questions] == [e["id"] for e in entries]
    for question, entry in zip(questions, entries, strict=True):
        theirs = deepcopy(entry)
        handler._pre_query_processing_prompting(theirs)
        assert question.messages == theirs["question"][0]
        assert question.messages[0]["content"].count(str(theirs["function"])) == 1
        assert question.tools is None
        native = bfcl.single_turn(entry, category).check
        assert question.check is not None and native is not None
        # The check's documents are those without the hint, as the official scorer loads them.
        assert question.check.options == {**native.options, "syntax": "python"}
        assert question.check.reference == native.reference


def test_the_protocol_says_what_it_is() -> None:
    chosen = benchmark("bfcl-v3-simple-prompt")
    native = benchmark("bfcl-v3-simple").protocol
    assert chosen.paper == {} and "prompting mode" in chosen.protocol.source
    assert (chosen.protocol.temperature, chosen.protocol.max_tokens) == (0.6, native.max_tokens)
    assert len(chosen.load(Loading(Path(), limit=3))) == 3


def _text(entry: dict[str, Any]) -> str:
    """The gold calls as the prompt asks for them."""
    names = [tool["name"] for tool in entry["function"]]
    parts = []
    for call in gold_calls(entry["ground_truth"], entry["function"]):
        # simple_363's gold has a shorter name than its only tool.
        name = call["name"] if call["name"] in names else names[0]
        arguments = ", ".join(f"{key}={value!r}" for key, value in call["arguments"].items())
        parts.append(f"{name}({arguments})")
    return f"[{', '.join(parts)}]"


def _corrupted(text: str, seed: str) -> list[str]:
    rng = random.Random(seed)
    place = rng.randrange(1, len(text) - 1)
    return [
        text[1:],  # no bracket in front
        text[:-2],  # a call that does not end
        f"```python\n{text}\n```",
        f"Here: {text}",
        f"`{text} `\n",
        text[:place] + text[place + 1 :],
        text[:place] + rng.choice("()[]{}'\",=-+*.0 ") + text[place:],
        text.replace("'", "").replace('"', ""),
        text.replace("=", ":"),
    ]


def _decoded(text: str) -> Any:
    try:
        return official().default_decode_ast_prompting(text)
    except Exception:  # noqa: BLE001 - the official runner catches all
        return None


def _official_value(text: str, entry: dict[str, Any], category: str) -> float:
    """As the package's ast_file_runner decides, which has no word for a checker that raises."""
    decoded = _decoded(text)
    if decoded is None:
        return 0.0
    try:
        found = ast_checker()(
            entry["function"], decoded, entry["ground_truth"], "Python", category, "m"
        )
    except (TypeError, AttributeError, KeyError, ValueError, IndexError, OverflowError):
        return 0.0
    return float(found["valid"])


@pytest.mark.parametrize("category", GOLD)
def test_gold_and_corrupted_calls_are_decoded_and_judged_as_officially(category: str) -> None:
    entries = entries_of(category)
    questions = bfcl_prompt.questions(category, "bfcl-v3")
    right, read, tried = [], 0, 0
    for question, entry in zip(questions, entries, strict=True):
        spec, gold = question.check, _text(entry)
        assert spec is not None
        for text in (gold, *_corrupted(gold, entry["id"])):
            calls = python_calls(text)
            ours = None if calls is None else [{c["name"]: c["arguments"]} for c in calls]
            assert repr(ours) == repr(_decoded(text)), text
            verdict = check(spec.kind, text, spec.reference, **spec.options)
            assert verdict.value == _official_value(text, entry, category), text
            read, tried = read + (ours is not None), tried + 1
        right += [entry["id"]] * int(
            check(spec.kind, gold, spec.reference, **spec.options).value or 0
        )
    unsatisfiable = {name for name in UNSATISFIABLE if name.rsplit("_", 1)[0] == category}
    assert {e["id"] for e in entries} - set(right) == unsatisfiable
    assert 0.2 < read / tried < 0.8


@pytest.mark.parametrize("category", RELEVANCE)
def test_relevance_is_decided_as_officially(category: str) -> None:
    for question in bfcl_prompt.questions(category, "bfcl-v3", 5):
        spec = question.check
        assert spec is not None
        for text in ("[f(a=1)]", "f()", "No function fits.", "[]", "()", "[f(a=1)", "[f(a=]", "f"):
            called = bool(_decoded(text))
            wanted = category == "live_relevance"
            found = check(spec.kind, text, spec.reference, **spec.options).value
            assert found == float(called == wanted), text
