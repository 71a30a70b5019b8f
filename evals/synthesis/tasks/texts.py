"""Texts from texts: dialogues, questions appended, other words."""

import re
from collections.abc import Generator, Sequence
from random import Random
from urllib.parse import urlsplit

from data_mix.faithful import CLEAN, unfaithful
from data_mix.gates import chunks, copied, grounded, numbers, repeats, same_spans
from evals.synthesis import parsing
from evals.synthesis.config import (
    DiverseQaTask,
    LongDocumentQaTask,
    MindTask,
    RephraseTask,
    RubricTask,
)
from evals.synthesis.languages import language_gate
from evals.synthesis.seeds import Seed, text_row
from evals.synthesis.work import GateRefusal, Piece, Reply, Wanted, Work, ask, user, whole

_STYLES = {
    "students": "Two students work through it together: each explains to the other what is unclear to him.",
    "teacher": "A teacher asks and explains, and a student answers, errs now and then, and is set right.",
    "professors": "Two professors discuss it at their own level, with all of its details.",
    "debate": "Two people argue about it: each claim is questioned and must be shown.",
    "solving": "Two people solve together what it poses, step by step.",
    "layman": "Someone who knows nothing about it asks, and someone who knows all about it explains.",
    "interview": "An interviewer asks an expert about it, one point after another.",
}
_MIND = """Turn the text below into a dialogue. {style}
Keep every fact, number and equation of the text, and add no other facts. Begin each turn on a new line with the speaker's name and a colon.

{text}"""
_QA = """Read the text below and write up to {count} pairs of question and answer about it{language}. Vary their form: yes or no, true or false, what, why, how, a comparison, several choices. Each question must be understood without the text, and be answered by it.
Write each pair on lines that begin with "Question:" and "Answer:".

{text}"""
_ONE = """Read the text below and write one question about it that only this text answers, and its answer in one or two sentences.
Write "Question:" and the question, then on a new line "Answer:" and the answer.

{text}"""
_OPEN = "{chunk}\n\nAnswer from the text above, in one or two sentences.\n\n{question}"
_CLOSED = "Answer in one or two sentences.\n\n{question}"
_STYLE = {
    "wikipedia": "in the clear and exact style of an encyclopedia",
    "plain": "in plain words and short sentences, as for a child of twelve",
    "knowledge": "as a dense passage that keeps the knowledge and drops the rest",
    "list": "as an ordered list of what it says",
}
_REPHRASE = """Write the text below anew, {style}. Keep its language, its facts, its numbers, and every equation, link and piece of code as they are. Write the new text alone.

{text}"""
_RUBRIC = """Rate the text by {criteria}. 0 is nothing of it, 5 is all that one could wish.
Give your reason in one sentence, and end with a line "Score: N", where N is a whole number from 0 to 5.

{text}"""
_SCORE = re.compile(r"^\W*score\W*([0-5])(?:\s*/\s*5)?\W*$", re.I | re.M)
_SAME = 0.5


def mind(task: MindTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A dialogue of each style by each model."""
    rng, count = (
        Random(f"styles/{seed.id}"),
        min(task.per_text or len(task.styles), len(task.styles)),
    )
    drawn = task.styles if task.per_text is None else tuple(rng.sample(task.styles, count))
    return [
        Piece(
            name := f"{seed.id}/{model}/{style}",
            1,
            model,
            _dialogue(task, seed, style, name, model),
        )
        for model in models
        for style in drawn
    ]


def _dialogue(task: MindTask, seed: Seed, style: str, name: str, model: str) -> Work:
    (replies,) = yield [ask(_MIND.format(style=_STYLES[style], text=seed.text))]
    said = whole(replies[0]).answer.strip()
    turns = parsing.turns(said)
    speakers = {speaker.casefold() for speaker, _ in turns}
    if len(said.split()) < task.min_words:
        return [GateRefusal("too short", said[:300])]
    if len(turns) < task.min_turns or len(speakers) < 2:
        return [GateRefusal("no dialogue", said[:300])]
    if repeats(said):
        return [GateRefusal("in a circle", said[:300])]
    if copied(said, seed.text) > task.max_copied:
        return [GateRefusal("copied", said[:300])]
    invented = set(numbers(said)) - set(numbers(seed.text)) if style != "solving" else set()
    if len(invented) > max(2, len(set(numbers(seed.text)))):
        return [GateRefusal("numbers of its own", ", ".join(sorted(invented))[:300])]
    return [text_row(name, said, seed=seed.id, style=style, writer=model)]


def diverse_qa(task: DiverseQaTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A text with its questions behind it, by each model."""
    return [
        Piece(name := f"{seed.id}/{model}", 1, model, _questions(task, seed, name, model))
        for model in models
    ]


def _questions(task: DiverseQaTask, seed: Seed, name: str, model: str) -> Work:
    language = "" if task.language is None else f", in the language with the code {task.language}"
    asked = _QA.format(count=task.max_pairs, language=language, text=seed.text)
    (replies,) = yield [ask(asked)]
    said = whole(replies[0]).answer
    found = {pair.question.casefold(): pair for pair in parsing.pairs(said)}
    good = [p for p in found.values() if grounded(p.answer, seed.text, p.question) >= task.grounded]
    if not found:
        return [GateRefusal("no pairs", said[:300])]
    if len(good) < min(task.min_pairs, len(found)) or len(found) < task.min_pairs:
        return [
            GateRefusal(
                "too few pairs" if len(found) < task.min_pairs else "answers not in the text",
                said[:300],
            )
        ]
    good = good[: task.max_pairs]
    block = "\n\n".join(f"Question: {p.question}\nAnswer: {p.answer}" for p in good)
    if task.language is not None and (wrong := language_gate(block, task.language)):
        return [GateRefusal(wrong, block[:300])]
    text = f"{seed.text.rstrip()}\n\n{block}"
    return [text_row(name, text, seed=seed.id, writer=model, pairs=len(good))]


def long_document_qa(task: LongDocumentQaTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A long document with its questions behind it, by each model."""
    return [
        Piece(name := f"{seed.id}/{model}", 1, model, _long(task, seed, name, model))
        for model in models
    ]


def _long(task: LongDocumentQaTask, seed: Seed, name: str, model: str) -> Work:
    tokens = len(seed.text) // 4
    if tokens < task.min_tokens:
        return [GateRefusal("too short a document", f"{tokens:,} tokens")]
    parts = chunks(seed.text, task.chunk_tokens)
    number = max(1, round(task.share * len(parts)))
    # By the seed alone: every model asks about the same chunks.
    chosen = sorted(Random(f"long/{seed.id}").sample(range(len(parts)), number))
    written = yield [ask(_ONE.format(text=parts[place])) for place in chosen]
    found: list[tuple[int, parsing.QuestionAnswer]] = []
    for place, replies in zip(chosen, written, strict=True):
        pairs = parsing.pairs(whole(replies[0]).answer)
        if len(pairs) == 1 and grounded(pairs[0].answer, parts[place], pairs[0].question) >= _SAME:
            found.append((place, pairs[0]))
    if found and task.answerable:
        found = yield from _answerable(found, parts)
    if not found:
        return [GateRefusal("no question on any chunk")]
    block = "\n\n".join(f"Question: {p.question}\nAnswer: {p.answer}" for _, p in found)
    text = f"{seed.text.rstrip()}\n\n{block}"
    return [
        text_row(
            name,
            text,
            seed=seed.id,
            writer=model,
            chunks=len(parts),
            asked=number,
            pairs=len(found),
        )
    ]


def _answerable(
    found: list[tuple[int, parsing.QuestionAnswer]], parts: list[str]
) -> Generator[Sequence[Wanted], list[list[Reply]], list[tuple[int, parsing.QuestionAnswer]]]:
    """Those whose answer is found again with the chunk, and not without it."""
    wanted: list[Wanted] = []
    for place, pair in found:
        for text in (
            _OPEN.format(chunk=parts[place], question=pair.question),
            _CLOSED.format(question=pair.question),
        ):
            wanted.append(Wanted(user(text), who="solver", greedy=True))
    replies = yield wanted
    kept = []
    for number, (place, pair) in enumerate(found):
        with_it, without = (whole(replies[2 * number + k][0]).answer for k in (0, 1))
        if _agree(with_it, pair.answer) and not _agree(without, pair.answer):
            kept.append((place, pair))
    return kept


def _agree(said: str, answer: str) -> bool:
    return grounded(answer, said) >= _SAME and bool(answer.strip())


def rephrase(task: RephraseTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """The text in other words, by each model."""
    return [
        Piece(name := f"{seed.id}/{model}", 1, model, _rephrased(task, seed, name, model))
        for model in models
    ]


def _rephrased(task: RephraseTask, seed: Seed, name: str, model: str) -> Work:
    clean = task.style == "clean"
    asked = CLEAN if clean else _REPHRASE.replace("{style}", _STYLE[task.style])
    (replies,) = yield [ask(asked.replace("{text}", seed.text))]
    text = whole(replies[0]).answer.strip()
    ratio = len(text) / max(len(seed.text), 1)
    if not task.min_ratio <= ratio <= task.max_ratio:
        return [GateRefusal("length", f"{ratio:.2f} of the text's")]
    reason = unfaithful(seed.text, text) if clean else _unlike(seed.text, text, task.max_copied)
    if reason:
        return [GateRefusal(reason, text[:300])]
    return [text_row(name, text, seed=seed.id, writer=model, style=task.style)]


def _unlike(before: str, text: str, max_copied: float) -> str:
    """Why a text in other words says something else, or is not in other words; empty where neither."""
    if not same_spans(before, text):
        return "equations, links or code changed"
    if set(numbers(text)) - set(numbers(before)):
        return "numbers of its own"
    if repeats(text):
        return "in a circle"
    return "copied" if copied(text, before) > max_copied else ""


def rubric(task: RubricTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A rating by each model."""
    return [
        Piece(name := f"{seed.id}/{model}", 1, model, _rated(task, seed, name, model))
        for model in models
    ]


def _rated(task: RubricTask, seed: Seed, name: str, model: str) -> Work:
    shown = seed.text[: task.most_characters]
    (replies,) = yield [ask(_RUBRIC.format(criteria=task.criteria, text=shown), greedy=True)]
    said = whole(replies[0]).answer
    found = _SCORE.findall(said)
    if len(set(found)) != 1:
        return [GateRefusal("no score" if not found else "two scores", said[:300])]
    host = seed.more.get("host") or urlsplit(str(seed.more.get("url") or "")).netloc or seed.id
    return [
        text_row(name, seed.text, seed=seed.id, writer=model, score=int(found[0]), host=str(host))
    ]
