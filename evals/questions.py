"""What benchmarks ask and what they take for right, as texts: training data is kept clean of them.

Other packages find this by the field `questions` of the kind `evals` (workbench.registry).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.harness.run import documents_of
from evals.registry import BENCHMARKS, benchmark
from evals.sources import Loading
from workbench.conversation import Conversation

# Benchmarks that a judge decides are loaded for their questions; nobody is asked.
_NO_JUDGE = {"endpoint": "http://none/v1#none"}


def names() -> list[str]:
    """The benchmarks of a closed list; families (ruler-..., lm-eval-...) are made by name."""
    return list(BENCHMARKS)


def must_exist(name: str) -> None:
    """Raises: UserError naming the nearest benchmark."""
    benchmark(name)


def is_here(name: str, data: str) -> bool:
    """Whether a benchmark's data is on this machine, as far as it is cheap to know."""
    return benchmark(name).data.status(Path(data)) == "here"


def questions_of(name: str, data: str) -> Iterator[tuple[str, list[str]]]:
    """(id, texts) of each question: what users say, references and solutions that are texts.

    Raises: UserError that says what is missing and where to put it.
    """
    found = benchmark(name)
    if found.harness is not None:
        yield from documents_of(found.harness, name, Path(data))
        return
    for question in _loaded(found, data):
        yield question.id, [text for text in _texts(question) if text.strip()]


def _loaded(found: Benchmark, data: str) -> list[Conversation]:
    return found.load(Loading(Path(data), judge=_NO_JUDGE if found.judged else None))


def _texts(question: Conversation) -> Iterator[str]:
    for message in question.messages:
        # System messages are shared by many questions, and say nothing of one.
        if message["role"] != "system":
            yield str(message.get("content") or "")
    if question.check is not None:
        yield from _strings(question.check.reference)
        turns = question.check.options.get("turns")
        yield from _strings(turns)


def _strings(value: Any) -> Iterator[str]:
    """The texts in a reference, whatever its shape."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
