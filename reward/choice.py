"""Which option did the reply choose?"""

import re
import unicodedata
from typing import Any, NamedTuple

from reward import choice_forms as forms
from reward.boxes import last_box
from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, wrong_format
from workbench.errors import UserError

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|bf|rm)\s{0,3}\{([^{}]{0,400})\}")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CLAUSE_CHARACTERS = 200


class _Found(NamedTuple):
    """A final statement: where it stands, and its letter or why it has none."""

    place: int
    letter: str | None
    reason: str = ""


def check_choice(reply: CheckedReply, reference: Any, *, num_choices: int = 4) -> Verdict:
    """1.0 where the chosen letter is the reference's.

    reference: one letter ("B"). num_choices: letters A up to this many are allowed (2 to 26).
    The last final statement counts: \\boxed{B}; "Answer: B", "the answer is (B)", "B is the correct
    answer"; a last line that is only the letter. Where there is none: a last line that is a label
    ("B. Paris"), else the one marked letter ("(B)", "**B**") that the text does not rule out.
    Several letters at once ("A or B") are wrong_format. docs/rewards.md has the rule in full.
    """
    if not 2 <= num_choices <= 26:
        raise UserError(f"num_choices must be 2 to 26, got {num_choices}")
    allowed = _LETTERS[:num_choices]
    gold = str(reference).strip().strip("().").upper()
    if len(gold) != 1 or gold not in allowed:
        raise UserError(
            f"the reference of a choice check must be one letter of {allowed[0]}-{allowed[-1]}, "
            f"got {reference!r}; set num_choices for more options"
        )
    chosen, reason = extract_choice(reply.answer, allowed)
    if chosen is None:
        return wrong_format(reason)
    if chosen not in allowed:
        return wrong_format(f"chose {chosen}, options are {allowed[0]}-{allowed[-1]}")
    return decided(chosen == gold, extracted=chosen)


def extract_choice(answer: str, allowed: str = _LETTERS) -> tuple[str | None, str]:
    """(letter, "") or (None, why not)."""
    text = _plain(answer)
    found = [f for f in (_last_box(text), _last_statement(text, allowed)) if f is not None]
    bare = _bare_last_line(text)
    if bare is not None:
        found.append(bare)
    # A list of labels that ends in a bare one ("A.", "B.") is not a choice: the lines decide.
    if not found or (len(found) == 1 and found[0] is bare):
        return _unstated(text)
    last = max(found, key=lambda f: f.place)
    return last.letter, last.reason


def _plain(answer: str) -> str:
    """Full-width forms as ASCII, without LaTeX's text wrappers, every run of blanks one blank."""
    text = unicodedata.normalize("NFKC", answer)
    text = re.sub(r"\\[()\[\]]", "$", text)
    text = re.sub(r"<(?:final_)?answer>", "\nAnswer: ", text, flags=re.IGNORECASE)
    text = re.sub(r"</(?:final_)?answer>", "\n", text, flags=re.IGNORECASE)
    for _ in range(2):
        text = _WRAPPER.sub(r"\1", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n\s*", "\n", text)


def _last_box(text: str) -> _Found | None:
    box = last_box(text)
    return _Found(box.place, *_boxed(box.content)) if box is not None else None


def _boxed(content: str | None) -> tuple[str | None, str]:
    if content is None:
        return None, "the last box is not closed"
    found = re.fullmatch(
        r"(?:(?i:option|choice)\s+)?[(\[*]*([A-Za-z])[)\]*]*(?P<rest>[.):]\s*.*|,\s*(?![A-Za-z]\b).+|\s*)",
        content.strip().strip("$").strip(),
        re.DOTALL,
    )
    if not found or forms.MORE.match(found["rest"].lstrip(".):")):
        return None, "the last box does not hold one letter"
    return found[1].upper(), ""


def _last_statement(text: str, allowed: str) -> _Found | None:
    matches = [m for pattern in forms.STATED for m in pattern.finditer(text)]
    stated = [m for m in matches if _is_statement(m, text)]
    if not stated:
        return None
    last = max(stated, key=lambda m: m.start("letter"))
    if _lists_more(last["rest"], allowed):
        return _Found(last.start("letter"), None, "several letters are listed")
    return _Found(last.start("letter"), last["letter"].upper())


def _is_statement(match: re.Match[str], text: str) -> bool:
    """Not a word or a term, not refuted at once, and not in a clause that supposes or denies."""
    rest, groups = match["rest"], match.groupdict()
    if not _is_label(match, text) or forms.TERM.match(rest) or forms.REFUTED.match(rest):
        return False
    before = text[max(match.start() - _CLAUSE_CHARACTERS, 0) : match.start()]
    link = groups.get("link") or ""
    if link == "\n" and not forms.UNDER_HEADING.match(rest):
        return False
    # "Option: A" quotes an option, "the best option: A" chooses one.
    if groups.get("weak") and not link[:1].isalpha() and not forms.WEAK_LEAD.search(before):
        return False
    if link.lower().startswith("would") and forms.IF.search(re.split(r"[.!?\n]", before)[-1]):
        return False
    if re.match(r"[^.!\n]{0,80}\?", rest):  # asks rather than answers
        return False
    return not forms.NO_STATEMENT.search(forms.CLAUSE.split(before)[-1])


def _is_label(match: re.Match[str], text: str) -> bool:
    """A letter that is not a word: "a dog", "I don't know" and "A dog" hold no choice."""
    letter, rest, at = match["letter"], match["rest"], match.start("letter")
    enclosed = text[at - 1 : at] in tuple("([*\"'`{") and rest[:1] in tuple(")]*\"'`}")
    if enclosed:
        return True
    if letter.islower():
        return re.match(r"[)\]}*_`\"'$.]*\s*(?:\n|$)", rest) is not None
    follows_word = re.match(r"\s+[a-z]", rest) is not None
    return not (letter in forms.WORDS and follows_word) or bool(forms.AFTER_LABEL.match(rest))


def _lists_more(rest: str, allowed: str) -> bool:
    if forms.ROW.match(rest):
        return True
    more = forms.MORE.match(rest)
    if not more or more["letter"] not in allowed:
        return False
    goes_on = re.match(r"\s+(?!or\b|and\b)[a-z]", more["after"]) is not None
    # "B, I think" and "B; A is too small" go on with a sentence.
    return not (goes_on and (more["soft"] or more["letter"] in forms.WORDS))


def _bare_last_line(text: str) -> _Found | None:
    lines = text.rstrip().split("\n")
    match = forms.BARE_LINE.match(lines[-1])
    if not match:
        return None
    letter = match["letter"] or match["marked"] or match["small"]
    return _Found(len(text.rstrip()) - 1, letter.upper())


def _unstated(text: str) -> tuple[str | None, str]:
    lines = [line for line in text.split("\n") if line.strip()]
    labelled = [_label(line) for line in lines]
    if lines and labelled[-1]:
        labels = {a or b for a, b in forms.LABEL.findall(lines[-1])}
        if len({label for label in labelled if label} | labels) > 1:
            return None, "several letters are listed"
        return labelled[-1], ""
    marked = {m["a"] or m["b"]: m for m in forms.MARKED.finditer(text)}
    if len(marked) != 1:
        return None, "several letters are listed" if marked else "no choice found"
    letter, match = marked.popitem()
    if forms.RULED_OUT.search(_sentence(text, match.start(), match.end())):
        return None, "the only letter is ruled out"
    return letter, ""


def _label(line: str) -> str | None:
    match = forms.BARE_LINE.match(line) or forms.LABEL_LINE.match(line)
    if not match or forms.REFUTED.match(match.groupdict().get("rest") or ""):
        return None
    groups = match.groupdict()
    return str(groups.get("letter") or groups.get("marked") or groups["small"]).upper()


def _sentence(text: str, start: int, end: int) -> str:
    before = re.split(r"[.!?;\n]", text[max(start - _CLAUSE_CHARACTERS, 0) : start])[-1]
    return before + re.split(r"[.!?;\n]", text[end : end + _CLAUSE_CHARACTERS])[0]
