"""The package bfcl-eval as it is read: types, gold calls, opening messages, solutions as text."""

import importlib
from typing import Any

import pytest

from data_mix.bfcl import bfcl_conversations
from environments.bfcl.tasks import task_of
from evals.tasks.bfcl import single_turn
from reward.bfcl import documents, entries, gold_calls, json_schema, json_type, opening, read_call


def test_gold_calls_say_what_the_request_says() -> None:
    gold: list[Any] = [
        {"f": {"a": [1, 2], "b": ["", "x"], "c": ["", "y"], "d": [{"k": ["v"], "o": ["", 3]}]}}
    ]
    tools: list[Any] = [{"name": "f", "parameters": {"required": ["c"]}}]
    assert gold_calls(gold, tools) == [
        {"name": "f", "arguments": {"a": 1, "c": "y", "d": {"k": "v"}}}
    ]
    listed: list[Any] = [{"f": {"a": [[{"k": ["v", "w"]}]]}}]
    assert gold_calls(listed, tools) == [{"name": "f", "arguments": {"a": [{"k": "v"}]}}]


def test_tools_are_shown_whole_in_json_schema() -> None:
    document = {
        "name": "f",
        "description": "D",
        "parameters": {
            "type": "dict",
            "required": ["a"],
            "properties": {
                # A parameter that is called like a keyword of the schema.
                "type": {"type": "string", "description": "T", "enum": ["dict"]},
                "a": {"type": "array", "items": {"type": "float"}, "default": {"type": "dict"}},
                "b": {"type": "any", "description": "B"},
            },
        },
    }
    assert json_schema(document)["parameters"] == {
        "type": "object",
        "required": ["a"],
        "properties": {
            "type": {"type": "string", "description": "T", "enum": ["dict"]},
            "a": {"type": "array", "items": {"type": "number"}, "default": {"type": "dict"}},
            "b": {"type": "string", "description": "B"},
        },
    }


# The package's own table, by hand from constants/type_mappings.py; it calls what it does not know text.
TYPES = {
    "any": "string", "Any": "string", "dict": "object", "float": "number", "tuple": "array",
    "boolean": "boolean", "HashMap": "object", "double": "number", "long": "integer",
    "char": "string", "ArrayList": "array", "String": "string", "Boolean": "string", "": "string",
}  # fmt: skip


def test_each_type_has_the_packages_name() -> None:
    assert {name: json_type(name) for name in TYPES} == TYPES
    official = importlib.import_module("bfcl_eval.constants.type_mappings").GORILLA_TO_OPENAPI
    assert {name: json_type(name) for name in official} == official


def _types(node: Any) -> Any:
    if isinstance(node, dict):
        own = [node["type"]] if isinstance(node.get("type"), str) else []
        return own + [t for value in node.values() for t in _types(value)]
    return [t for value in node for t in _types(value)] if isinstance(node, list) else []


def test_training_shows_the_documents_that_the_exam_shows() -> None:
    """`any` had no type in training, and was text in the benchmark and the environment."""
    shown = {
        c.id: [tool["function"] for tool in c.tools or []]
        for split in ("train", "test")
        for c in bfcl_conversations(split, ("live_simple", "live_multiple"))
    }
    tried = 0
    for category in ("live_simple", "live_multiple"):
        for entry in entries(category):
            if entry["id"] in shown:
                exam = single_turn(entry, category)
                assert shown[entry["id"]] == exam.tools
                tried += "any" in _types(entry["function"])
    assert tried == 9
    # The same rule for the tools of the simulated APIs.
    task = task_of(entries("multi_turn_base")[0])
    api = task.data["apis"][0]
    assert task.tools[0] == json_schema(documents(api)[0])


def test_system_messages_come_first_and_are_one() -> None:
    asked = [("user", "Hi"), ("system", "A"), ("system", "B"), ("user", "Go")]
    entry = {"question": [[{"role": role, "content": text, "x": 1} for role, text in asked]]}
    assert opening(entry) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "Go"},
    ]


@pytest.mark.parametrize(
    "text",
    ["__import__('os').getcwd()", "f(g(1))", "f(x=[i for i in y])", "1", "f(1, 2, 3)", "g(1)"],
)
def test_solutions_are_read_not_run(text: str) -> None:
    with pytest.raises(ValueError):
        read_call(text, {"f": ["a", "b"]})


def test_a_solutions_arguments_get_their_names() -> None:
    read = read_call("f(1, c='x', b=-2)", {"f": ["a", "b", "c"]})
    assert read == {"name": "f", "arguments": {"a": 1, "c": "x", "b": -2}}
