"""What a writer was asked for, read from its reply; None, or nothing, where it is not there."""

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^\s*(?:\*\*)?\(?([A-Z])[.):]\)?(?:\*\*)?\s+(\S.*)$")
_HEAD = re.compile(
    r"^\s*(?:#+\s*)?(?:\*\*)?\s*(?:new\s+)?(?:problem|question)\s*:?\s*(?:\*\*)?:?\s*", re.I
)
_QUESTION = re.compile(
    r"^\s*(?:\d+[.)]\s*)?(?:\*\*)?(?:Q|Question)\s*\d*\s*[:.](?:\*\*)?\s*(.*)$", re.I
)
_ANSWER = re.compile(r"^\s*(?:\*\*)?(?:A|Answer)\s*\d*\s*[:.](?:\*\*)?\s*(.*)$", re.I)
_LEAK = re.compile(r"^\s*(?:\*\*)?(?:answer|solution|explanation)\b\s*(?:\*\*)?\s*:", re.I | re.M)
_TURN = re.compile(r"^\s*(?:\*\*)?([A-Z][\w .'-]{0,30}?)(?:\*\*)?:(?:\*\*)?\s*(\S.*)?$")
_LINE = re.compile(r"^\s*\[(\d+)\]\s*<(.*)>\s*$")
_FENCE = re.compile(r"```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its answer."""

    question: str
    answer: str


def problem(text: str) -> str | None:
    """A problem statement alone; None where it is empty, or a solution stands with it."""
    found = _HEAD.sub("", text.strip(), count=1).strip()
    return None if not found or _LEAK.search(found) else found


def options(text: str, count: int) -> tuple[str, list[str]] | None:
    """(stem, options) of a problem whose last lines are options A, B, ... in order, all different."""
    lines = text.rstrip().splitlines()
    found: list[str] = []
    first = len(lines)
    for place in range(len(lines) - 1, -1, -1):
        if not lines[place].strip():
            continue
        label = _LABEL.match(lines[place])
        if label is None:
            break
        found.insert(0, lines[place])
        first = place
    labels = [_LABEL.match(line) for line in found]
    letters = "".join(m[1] for m in labels if m)
    texts = [m[2].strip() for m in labels if m]
    stem = "\n".join(lines[:first]).strip()
    wanted = "ABCDEFGHIJ"[:count]
    if letters != wanted or len({t.casefold() for t in texts}) < count or not stem:
        return None
    return stem, texts


def with_options(stem: str, texts: list[str]) -> str:
    """The problem as one text, its options labelled."""
    return "\n".join([stem, "", *(f"{'ABCDEFGHIJ'[n]}. {text}" for n, text in enumerate(texts))])


def pairs(text: str) -> list[QuestionAnswer]:
    """Question: ... Answer: ... in turn; a question without an answer is left out."""
    found: list[QuestionAnswer] = []
    question: list[str] | None = None
    answer: list[str] | None = None

    def close() -> None:
        if question is not None and answer is not None:
            q, a = "\n".join(question).strip(), "\n".join(answer).strip()
            if q and a:
                found.append(QuestionAnswer(q, a))

    for line in text.splitlines():
        if (m := _QUESTION.match(line)) is not None:
            close()
            question, answer = [m[1]], None
        elif (m := _ANSWER.match(line)) is not None and question is not None and answer is None:
            answer = [m[1]]
        elif answer is not None:
            answer.append(line)
        elif question is not None:
            question.append(line)
    close()
    return found


def turns(text: str) -> list[tuple[str, str]]:
    """(speaker, words) of a dialogue written as `Name: words`; lines without a name go on the one
    before."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if (m := _TURN.match(line)) is not None:
            found.append((m[1].strip(), (m[2] or "").strip()))
        elif line.strip() and found:
            speaker, said = found[-1]
            found[-1] = (speaker, f"{said}\n{line.strip()}".strip())
    return [(speaker, said) for speaker, said in found if said]


def bracketed(text: str, numbers: list[int]) -> dict[int, str] | str:
    """The lines `[12] <...>`: each of these numbers once, in order, and nothing else; else what is wrong.

    >>> bracketed("[1] <eins>\\n[2] <zwei>", [1, 2])
    {1: 'eins', 2: 'zwei'}
    """
    found: list[tuple[int, str]] = []
    for line in text.strip().splitlines():
        if not line.strip():
            continue
        m = _LINE.match(line)
        if m is None:
            return "a line without its bracket"
        found.append((int(m[1]), m[2].strip()))
    given = [number for number, _ in found]
    if given == numbers:
        return dict(found) if all(said for _, said in found) else "an empty line"
    if len(set(given)) < len(given):
        return "a line twice"
    if set(numbers) - set(given):
        return "a line lost"
    return (
        "lines that were not asked for" if set(given) - set(numbers) else "lines in another order"
    )


def fenced(text: str, language: str) -> str | None:
    """The last fenced block of this language; None where there is none."""
    blocks = [code for name, code in _FENCE.findall(text) if name.casefold() == language.casefold()]
    return blocks[-1].strip("\n") if blocks and blocks[-1].strip() else None
