"""Line by line, each line in brackets of its own number; what cannot be translated is left out [paper 4.1].

A model that merges, drops, repeats or reorders lines, copies the original, answers instead of translating
or changes a number, a link or an equation is caught by a count or a comparison, and the row is removed as
untranslated.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_mix.gates import alike, numbers, same_spans, without_spans
from evals.synthesis import parsing
from evals.synthesis.config import TranslateTask
from evals.synthesis.languages import language_of
from evals.synthesis.seeds import Seed, text_row
from evals.synthesis.work import GateRefusal, Made, Piece, Work, ask, whole
from workbench.conversation import Message

_NAMES = {
    "ar": "Arabic", "da": "Danish", "de": "German", "en": "English", "es": "Spanish", "fr": "French",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese",
    "ru": "Russian", "sv": "Swedish", "th": "Thai", "zh": "Chinese",
}  # fmt: skip
_ASK = """Translate each numbered line below from {origin} into {to}. Write each translation on a line of its own, as [number] <translation>, in the same order, one for each number. Keep numbers, code in backticks, links and equations as they are. Add nothing.

{lines}"""
_FENCE = re.compile(r"^\s*(```|~~~)")
_MARKS = re.compile(r"^(\s*(?:[-*+>]\s+|#+\s+|\d+[.)]\s+|[A-J][.)]\s+)*)(.*?)(\s*)$", re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
# As long as this, a line that says what the original says letter by letter was not translated.
_LEAST_LETTERS, _SHORT = 4, 20


def pieces(task: TranslateTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """The seed in the other language, by each model."""
    return [
        Piece(
            name := f"{seed.id}/{model}/{task.to}", 1, model, _translated(task, seed, name, model)
        )
        for model in models
    ]


def lines_of(text: str) -> list[tuple[str, str, str, bool]]:
    """(mark, words, end, whether it is to be translated) of each line; joined they are the text.

    Code blocks, blank lines and lines without words of their own are not.
    """
    found, inside = [], False
    for line in text.split("\n"):
        fence = bool(_FENCE.match(line))
        mark, said, end = _MARKS.match(line).groups()  # type: ignore[union-attr]
        asked = not inside and not fence and _letters(without_spans(said)) >= _LEAST_LETTERS
        found.append((mark, said, end, asked))
        inside ^= fence
    return found


def _letters(text: str) -> int:
    return len(_LETTER.findall(text))


def _translated(task: TranslateTask, seed: Seed, name: str, model: str) -> Work:
    parts = _parts(seed)
    split = [lines_of(text) for text in parts]
    asked = [(i, j) for i, lines in enumerate(split) for j, line in enumerate(lines) if line[3]]
    if not asked:
        return [GateRefusal("nothing to translate")]
    numbered = {n: split[i][j][1] for n, (i, j) in enumerate(asked, start=1)}
    groups = [
        list(numbered)[k : k + task.lines_at_once]
        for k in range(0, len(numbered), task.lines_at_once)
    ]
    replies = yield [
        ask(_prompt(task, {n: numbered[n] for n in group}), greedy=True) for group in groups
    ]
    said: dict[int, str] = {}
    for group, (reply,) in zip(groups, replies, strict=True):
        found = parsing.bracketed(whole(reply).answer, group)
        if isinstance(found, str):
            return [GateRefusal(f"untranslated: {found}", whole(reply).answer[:300])]
        said |= found
    for n, line in said.items():
        if wrong := line_problem(task, numbered[n], line):
            return [GateRefusal(f"untranslated: {wrong}", f"{numbered[n]}\n{line}"[:300])]
    joined = " ".join(without_spans(line) for line in said.values())
    if language_of(joined, (task.to, task.origin)) != task.to:
        return [GateRefusal("untranslated: another language", joined[:300])]
    for n, (i, j) in enumerate(asked, start=1):
        mark, _, end, _ = split[i][j]
        split[i][j] = (mark, said[n], end, True)
    texts = ["\n".join(mark + words + end for mark, words, end, _ in lines) for lines in split]
    return [_row(seed, texts, name, task, model)]


def _prompt(task: TranslateTask, lines: dict[int, str]) -> str:
    shown = "\n".join(f"[{n}] {line}" for n, line in lines.items())
    names = {code: _NAMES.get(code, code) for code in (task.origin, task.to)}
    return _ASK.format(origin=names[task.origin], to=names[task.to], lines=shown)


def line_problem(task: TranslateTask, origin: str, line: str) -> str:
    """What is wrong with the translation of a line; "" where nothing is."""
    if not same_spans(origin, line):
        return "links, equations or code changed"
    if numbers(origin) != numbers(line):
        return "numbers changed"
    plain = without_spans(line).strip()
    if not plain:
        return "an empty line"
    if len(origin) >= _SHORT:
        if not task.ratio[0] <= len(line) / len(origin) <= task.ratio[1]:
            return "a length that cannot be"
        if line.casefold() == origin.casefold() or alike(line, origin, run=3) > 0.8:
            return "copied"
    if (
        _letters(plain) >= task.language_from
        and language_of(plain, (task.to, task.origin)) != task.to
    ):
        return "another language"
    return ""


def _parts(seed: Seed) -> list[str]:
    """The texts of a seed: itself, or each message's words and trace."""
    talk = seed.conversation
    if talk is None:
        return [seed.text]
    keys = ("content", "reasoning_content")
    return [str(m.get(key) or "") for m in talk.messages for key in keys]


def _row(seed: Seed, texts: list[str], name: str, task: TranslateTask, model: str) -> Made:
    about: dict[str, Any] = {"seed": seed.id, "writer": model, "language": task.to}
    talk = seed.conversation
    if talk is None:
        return text_row(name, texts[0], **about)
    messages: list[Message] = []
    for place, message in enumerate(talk.messages):
        content, trace = texts[2 * place], texts[2 * place + 1]
        new = {**message, "content": content}
        messages.append({**new, "reasoning_content": trace} if trace else new)
    return Made({**replace(talk, id=name, messages=messages).to_row(), **about})
