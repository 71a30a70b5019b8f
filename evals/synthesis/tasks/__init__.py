"""The tasks: what is asked of a seed, how replies are read, and the gates."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from data_mix.shard_columns import CONVERSATION, Columns
from evals.synthesis.work import Piece

_OF_ALL: Columns = {"seed": "text", "writer": "text"}
_TEXT: Columns = {"id": "text", "text": "text", **_OF_ALL}
_TALK: Columns = {**CONVERSATION, **_OF_ALL}
_VOTED: Columns = {**_TALK, "votes": "whole", "voters": "whole"}
_COLUMNS: dict[str, Columns] = {
    "stem": _VOTED,
    "fr_sft": _VOTED,
    "mind": {**_TEXT, "style": "text"},
    "diverse_qa": {**_TEXT, "pairs": "whole"},
    "long_document_qa": {**_TEXT, "chunks": "whole", "asked": "whole", "pairs": "whole"},
    "rephrase": {**_TEXT, "style": "text"},
    "academic_qa": {**_TALK, "chunk": "whole"},
    "code_qa": {**_TALK, "language": "text"},
    "tool_dialogue": {**_TALK, "persona": "text", "calls": "whole"},
    "when2call": {**_TALK, "gold": "text"},
    "safety": _TALK,
    "traces": {**_TALK, "passed": "whole"},
    "rubric": {**_TEXT, "score": "whole", "host": "text"},
}

# type -> "module:function"; each is (task, seed, models[, material]) -> pieces.
TASKS = {
    "stem": "evals.synthesis.tasks.questions:pieces",
    "fr_sft": "evals.synthesis.tasks.questions:pieces",
    "mind": "evals.synthesis.tasks.texts:mind",
    "diverse_qa": "evals.synthesis.tasks.texts:diverse_qa",
    "long_document_qa": "evals.synthesis.tasks.texts:long_document_qa",
    "rephrase": "evals.synthesis.tasks.texts:rephrase",
    "academic_qa": "evals.synthesis.tasks.academic:pieces",
    "code_qa": "evals.synthesis.tasks.code:pieces",
    "translate": "evals.synthesis.tasks.translate:pieces",
    "tool_dialogue": "evals.synthesis.tasks.tools:dialogues",
    "when2call": "evals.synthesis.tasks.tools:negatives",
    "safety": "evals.synthesis.tasks.replies:safety",
    "traces": "evals.synthesis.tasks.replies:traces",
    "rubric": "evals.synthesis.tasks.texts:rubric",
}


def maker(task: Any, seeds: Sequence[Any]) -> Callable[[Any, Sequence[str]], list[Piece]]:
    """(seed, models) -> its pieces. seeds: all of the stage's, for a task that looks at its neighbours."""
    module, _, name = TASKS[task.type].partition(":")
    function = getattr(import_module(module), name)
    if task.type == "academic_qa":
        from evals.synthesis.tasks.academic import Chunks  # noqa: PLC0415 - one task's material

        material = Chunks(task, seeds)
        return lambda seed, models: function(task, seed, models, material)
    return lambda seed, models: function(task, seed, models)


def columns_of(task: Any, *, talks: bool) -> Columns:
    """The columns of a task's rows. talks: whether its seeds are conversations."""
    if task.type == "translate":
        return {**(_TALK if talks else _TEXT), "language": "text"}
    return dict(_COLUMNS[task.type])
