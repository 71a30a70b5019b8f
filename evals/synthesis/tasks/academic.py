"""Questions on a chunk of a document and its nearest neighbours [paper 3.5: 512-token chunks, e5-large,
250 neighbours, multiple choice and free answer with a justification]."""

from collections.abc import Sequence
from typing import Any

from data_mix.gates import chunks, grounded
from environments.question import checked
from evals.synthesis import parsing
from evals.synthesis.config import AcademicQaTask
from evals.synthesis.retrieval import nearest
from evals.synthesis.seeds import Seed, spoken, talk
from evals.synthesis.work import (
    GateRefusal,
    Outcome,
    Piece,
    Wanted,
    Work,
    ask,
    user,
    value_of,
    whole,
)
from workbench.conversation import CheckSpec

_WRITE = """Read the passages below. Write one multiple-choice question that needs the first passage to be answered; the others are there so that the wrong options are likely ones. It must be understood without the passages.
Give {count} options on lines of their own, labelled {letters}; then a line "Answer: X" with the right letter, and a line "Justification:" with the reason in one to three sentences.

{passages}"""
_FREE = "{question}\n\nExplain your answer."
_CHOOSE = '{problem}\n\nEnd with a line "Answer: X", where X is the letter.'
_WITH = "{passage}\n\n{problem}"
_GROUNDED = 0.5


class Chunks:
    """The chunks of all seeds, and the neighbours of each."""

    def __init__(self, task: AcademicQaTask, seeds: Sequence[Seed]) -> None:
        own = [(seed.id, part) for seed in seeds for part in chunks(seed.text, task.chunk_tokens)]
        self.texts = [part for _, part in own]
        self.of: dict[str, list[int]] = {}
        for place, (seed, _) in enumerate(own):
            self.of.setdefault(seed, []).append(place)
        self.near = nearest(self.texts, task.neighbours, embeddings=task.embeddings)


def pieces(
    task: AcademicQaTask, seed: Seed, models: Sequence[str], material: Chunks
) -> list[Piece]:
    """Two questions, one to choose and one to answer freely, on each chunk by each model."""
    return [
        Piece(
            name := f"{seed.id}/{model}/{number}", 2, model,
            _questions(task, seed, material, place, name, model),
        )
        for model in models
        for number, place in enumerate(material.of.get(seed.id, ()))
    ]  # fmt: skip


def _questions(
    task: AcademicQaTask, seed: Seed, material: Chunks, place: int, name: str, model: str
) -> Work:
    passage, letters = material.texts[place], "ABCDEFGHIJ"[: task.choices]
    shown = [passage, *(material.texts[n] for n in material.near[place])]
    passages = "\n\n".join(f"Passage {n}:\n{text}" for n, text in enumerate(shown, start=1))
    asked = _WRITE.format(count=task.choices, letters=", ".join(letters), passages=passages)
    (written,) = yield [ask(asked)]
    read = _read(whole(written[0]).answer, task)
    if isinstance(read, GateRefusal):
        return [read, read]
    stem, texts, letter, why = read
    problem = _CHOOSE.format(problem=parsing.with_options(stem, texts))
    right = texts[letters.index(letter)]
    if grounded(f"{right} {why}", passage, stem) < _GROUNDED:
        return [GateRefusal("answer not in the passage", why[:300])] * 2
    check = CheckSpec("choice", letter, {"num_choices": task.choices})
    wanted = [
        Wanted(user(_WITH.format(passage=passage, problem=problem)), who="solver", greedy=True)
    ]
    if task.closed_book:
        wanted.append(Wanted(user(problem), who="solver", greedy=True))
    verdicts = []
    for (reply,) in (yield wanted):
        solved = whole(reply)
        verdicts.append(value_of(checked(check, solved.text, opened=solved.opened)) == 1.0)
    if not verdicts[0]:
        return [GateRefusal("the passage does not give the answer", problem[:300])] * 2
    if task.closed_book and verdicts[1]:
        return [GateRefusal("answered without the passage", problem[:300])] * 2
    about: dict[str, Any] = {"seed": seed.id, "writer": model, "chunk": place}
    chosen = [*user(problem), spoken(f"{why}\n\nAnswer: {letter}")]
    free = [*user(_FREE.format(question=stem)), spoken(f"{right}\n\n{why}")]
    rows: list[Outcome] = [
        talk(f"{name}/choice", "academic", chosen, check=check, problem=stem, **about),
        talk(f"{name}/free", "academic", free, problem=stem, **about),
    ]
    return rows


def _read(text: str, task: AcademicQaTask) -> tuple[str, list[str], str, str] | GateRefusal:
    """(question, options, right letter, justification)."""
    body, _, why = text.partition("Justification:")
    question, marker, letter = body.rpartition("Answer:")
    question = question.strip().removesuffix("**").rstrip()
    letter = letter.strip().strip("*().: ")[:1].upper()
    if (
        not marker
        or letter not in "ABCDEFGHIJ"[: task.choices]
        or not letter
        or not why.strip(" *\n")
    ):
        return GateRefusal("no answer with its reason", text[:300])
    found = parsing.options(parsing.problem(question) or "", task.choices)
    if found is None:
        return GateRefusal("options not as asked", text[:300])
    return (*found, letter, why.strip(" *\n"))
