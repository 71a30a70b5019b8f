"""Which option did the reply choose?"""

import re
from typing import Any

from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, wrong_format
from workbench.errors import UserError

_BOX = re.compile(r"\\boxed\s*\{")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm)\s*\{([^{}]*)\}")
# "Answer: B", "the answer is (B)", "the correct option is **B**", "Answer - b".
_STATED = re.compile(
    r"\b(?:answer|choice|option)\b\**\s*(?:\b(?:is|would be|should be|must be|to choose is)\b\**)?"
    r"\s*[:=\-–]?\s*(?:\b(?:option|choice|letter)\b\s*)?[\*_`\"'$(\[{]*\s*"
    r"(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])(?=(?P<rest>.{0,40}))",
    re.IGNORECASE | re.DOTALL,
)
_LINE = re.compile(
    r"^[\s>*_`\"'$#-]*(?:(?i:option|choice)\s+)?[(\[]?(?P<letter>[A-Z])[)\]]?"
    r"(?:[*_`\"'$\s]*$|[*_`]*[.):](?:\s.*)?[*_`]*$)"
)
_MARKED = re.compile(r"\((?P<a>[A-Z])\)|\*\*\(?(?P<b>[A-Z])\)?[.:]?\*\*")
_LABEL = re.compile(r"\(([A-Z])\)|\b([A-Z])[.):](?=\s|$)")
# What follows a letter when several are listed: "A, B", "A and B", "A/B", "A) or (B".
_MORE = re.compile(
    r"^[\s)\]}*_`\"'$.]*(?:,\s*(?:and|or)?|\band\b|\bor\b|[/&+;|])\s*(?:option\s+)?"
    r"[(\[*_`\"']*[A-Z](?![A-Za-z0-9'’])"
)


def check_choice(reply: CheckedReply, reference: Any, *, num_choices: int = 4) -> Verdict:
    """1.0 where the chosen letter is the reference's.

    reference: one letter ("B"). num_choices: letters A up to this many are allowed (2 to 26).
    Read in this order, the last of a kind wins: \\boxed{B}; a statement ("Answer: B", "the answer
    is (B)"); a last line that is only the choice ("B", "(B)", "B. Paris"); one marked letter
    ("(B)", "**B**") in the text. Several letters at once ("A or B") are wrong_format.
    """
    if not 2 <= num_choices <= 26:
        raise UserError(f"num_choices must be 2 to 26, got {num_choices}")
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:num_choices]
    gold = str(reference).strip().strip("().").upper()
    if len(gold) != 1 or gold not in allowed:
        raise UserError(
            f"the reference of a choice check must be one letter of {allowed[0]}-{allowed[-1]}, "
            f"got {reference!r}; set num_choices for more options"
        )
    chosen, reason = extract_choice(reply.answer)
    if chosen is None:
        return wrong_format(reason)
    if chosen not in allowed:
        return wrong_format(f"chose {chosen}, options are {allowed[0]}-{allowed[-1]}")
    return decided(chosen == gold, extracted=chosen)


def extract_choice(answer: str) -> tuple[str | None, str]:
    """(letter, "") or (None, why not)."""
    boxes = list(_BOX.finditer(answer))
    if boxes:
        return _boxed(answer[boxes[-1].end() :])
    stated = [m for m in _STATED.finditer(answer) if _is_letter_choice(m)]
    if stated:
        last = stated[-1]
        if _MORE.match(last["rest"]):
            return None, "several letters are listed"
        return last["letter"].upper(), ""
    return _unstated(answer)


def _boxed(after: str) -> tuple[str | None, str]:
    depth, end = 1, -1
    for index, char in enumerate(after):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            end = index
            break
    if end < 0:
        return None, "the last box is not closed"
    content = _WRAPPER.sub(r"\1", after[:end]).strip().strip("$").strip()
    found = re.fullmatch(
        r"(?:(?i:option|choice)\s+)?[(\[*]*([A-Za-z])[)\]*]*(?P<rest>[.):]\s*.*|\s*)",
        content,
        re.DOTALL,
    )
    if not found or _MORE.match(found["rest"].lstrip(".):")):
        return None, "the last box does not hold one letter"
    return found[1].upper(), ""


def _is_letter_choice(match: re.Match[str]) -> bool:
    """A lower-case letter counts only where nothing follows on its line ("a dog" is no choice)."""
    if match["letter"].isupper():
        return True
    return re.match(r"[)\]}*_`\"'$.]*\s*(?:\n|$)", match["rest"]) is not None


def _unstated(answer: str) -> tuple[str | None, str]:
    lines = [line for line in answer.splitlines() if line.strip()]
    choice_lines = {m["letter"] for line in lines if (m := _LINE.match(line))}
    if lines and (last := _LINE.match(lines[-1])):
        labels = {a or b for a, b in _LABEL.findall(lines[-1])}
        if len(choice_lines | labels) > 1:
            return None, "several letters are listed"
        return last["letter"], ""
    marked = {m["a"] or m["b"] for m in _MARKED.finditer(answer)}
    if len(marked) == 1:
        return marked.pop(), ""
    return None, "several letters are listed" if marked else "no choice found"
