"""The messages that bfcl-eval itself makes for prompted models, inside a checking process.

The module that makes them imports a retry library and two language parsers, none of which it needs
for this: names stand in for them while it is imported, and are gone afterwards.
"""

import importlib
import sys
import types
from functools import cache
from typing import Any

_STAND_INS = {
    "tenacity": (
        "retry", "retry_if_exception_message", "retry_if_exception_type",
        "wait_random_exponential",
    ),
    "bfcl_eval.model_handler.parser.java_parser": ("parse_java_function_call",),
    "bfcl_eval.model_handler.parser.js_parser": ("parse_javascript_function_call",),
}  # fmt: skip


@cache
def official() -> Any:
    """The module `bfcl_eval.model_handler.utils`."""
    absent = [name for name in _STAND_INS if name not in sys.modules]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
        for attribute in _STAND_INS[name]:
            setattr(sys.modules[name], attribute, None)
    try:
        return importlib.import_module("bfcl_eval.model_handler.utils")
    finally:
        for name in absent:
            del sys.modules[name]


def messages(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each single-turn entry {id, question, function} the prompt's messages."""
    return [_messages(entry) for entry in entries]


def _messages(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """As the handler of local models prepares a query; both functions write into what they get."""
    category = entry["id"].rsplit("_", 1)[0]
    utils = official()
    documents = utils.func_doc_language_specific_pre_processing(entry["function"], category)
    made: list[dict[str, Any]] = utils.system_prompt_pre_processing_chat_model(
        entry["question"][0], documents, category
    )
    return made
