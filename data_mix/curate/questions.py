"""Questions of benchmarks by name, gathered once for a stage: its workers keep texts clean of them.

This floor may not import evaluations; it finds them by the field `questions` of an installed kind.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_mix.duplicates.files import save
from data_mix.hashed_runs import hashed
from data_mix.shards import write_durably
from data_mix.words import words
from workbench import registry
from workbench.errors import UserError
from workbench.rundir import json_text, read_json, read_json_lines

ALL_HERE = "all-here"
"""In place of names: every benchmark whose data is on this machine."""
# A run of words in so many questions of a benchmark is how it asks, and not what.
_COMMON_SHARE, _COMMON_LEAST = 0.02, 5


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question of a benchmark, with its answers that are texts."""

    benchmark: str
    id: str
    texts: tuple[str, ...]


def sources() -> list[Any]:
    """The modules that know benchmarks: of every installed kind that names one."""
    named = [kind.questions for kind in registry.kinds().values() if kind.questions is not None]
    return [registry.resolve_module(name) for name in dict.fromkeys(named)]


def names_of(against: Sequence[str], data: str) -> list[str]:
    """The benchmarks meant. Raises: UserError naming the nearest one."""
    out: list[str] = []
    for source in sources():
        for name in against:
            if name == ALL_HERE:
                out += [n for n in source.names() if source.is_here(n, data)]
            else:
                source.must_exist(name)
                out.append(name)
    return list(dict.fromkeys(out))


def gather(against: Sequence[str], data: str, path: Path) -> None:
    """Write the questions to a file, once. Raises: UserError where a benchmark has no data here."""
    if path.exists():
        return
    lines = []
    for source in sources():
        for name in names_of(against, data):
            for identity, texts in source.questions_of(name, data):
                kept = list(dict.fromkeys(text for text in texts if text.strip()))
                lines.append(json_text({"benchmark": name, "id": identity, "texts": kept}))
    if not lines:
        raise UserError(f"decontaminate: no question in {', '.join(against)}; name benchmarks")
    write_durably(path, "\n".join(lines) + "\n")


def looked_for(path: Path, size: int) -> tuple[list[str], NDArray[np.uint64]]:
    """The prompts and common runs of a file that `gather` wrote; worked out once, and kept beside it."""
    prompts, common = path.with_suffix(".prompts.json"), path.with_suffix(f".{size}.npy")
    if not common.exists():
        questions = read(path)
        write_durably(prompts, json_text(prompts_of(questions)))
        save(common, common_runs(questions, size))
    return list(read_json(prompts)), np.load(common)


def read(path: Path) -> list[BenchmarkQuestion]:
    """The questions of a file that `gather` wrote."""
    return [
        BenchmarkQuestion(row["benchmark"], row["id"], tuple(row["texts"]))
        for row in read_json_lines(path)
    ]


def prompts_of(questions: Iterable[BenchmarkQuestion]) -> list[str]:
    """What is looked for: each text, and its paragraphs, without those that many questions share."""
    out: dict[str, None] = {}
    for own in _by_benchmark(questions).values():
        seen = Counter(p for question in own for p in {*_parts(question)})
        most = _common(len(own))
        out |= dict.fromkeys(p for question in own for p in _parts(question) if seen[p] <= most)
    return list(out)


def common_runs(questions: Iterable[BenchmarkQuestion], size: int) -> NDArray[np.uint64]:
    """Numbers of the runs of `size` words that say nothing of one question.

    Those that many questions of one benchmark share, and those of few words or of numbers alone: a row of
    zeros is in every matrix.
    """
    found = [np.zeros(0, np.uint64)]
    for own in _by_benchmark(questions).values():
        by_question = [
            np.unique(np.concatenate([hashed(text).runs(size) for text in question.texts]))
            for question in own
            if question.texts
        ]
        runs, counts = np.unique(np.concatenate([found[0], *by_question]), return_counts=True)
        found.append(runs[counts > _common(len(own))])
        found += [_empty_runs(text, size) for question in own for text in question.texts]
    return np.unique(np.concatenate(found))


def _empty_runs(text: str, size: int) -> NDArray[np.uint64]:
    """Numbers of the runs with fewer than half as many different words, or half without a letter."""
    tokens, weights = words(text)
    # Characters of Chinese repeat, and all mean something.
    if weights is not None or len(tokens) < size:
        return np.zeros(0, np.uint64)
    runs = hashed(text).runs(size)
    _, kinds = np.unique(tokens, return_inverse=True)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(kinds, size), axis=1)
    different = 1 + (windows[:, 1:] != windows[:, :-1]).sum(axis=1)
    letters = np.cumsum([0, *(not token.isdigit() for token in tokens)])
    worded = letters[size:] - letters[:-size]
    return runs[(different < size / 2) | (worded < size / 2)]


def _common(num_questions: int) -> float:
    return max(_COMMON_LEAST, _COMMON_SHARE * num_questions)


def _by_benchmark(questions: Iterable[BenchmarkQuestion]) -> dict[str, list[BenchmarkQuestion]]:
    out: dict[str, list[BenchmarkQuestion]] = {}
    for question in questions:
        out.setdefault(question.benchmark, []).append(question)
    return out


def _parts(question: BenchmarkQuestion) -> Iterator[str]:
    for text in question.texts:
        yield text
        paragraphs = [part for part in text.split("\n\n") if part.strip()]
        if len(paragraphs) > 1:
            yield from paragraphs
