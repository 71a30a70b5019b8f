"""What a cleaning model may make of a page, and what it must not: innocent rewritings and planted faults.

Faults are planted by position and pattern, not by the gate's own segments; each is a true one wherever it returns
a text.
"""

import random
import re
import textwrap
from collections.abc import Callable
from itertools import pairwise

Made = Callable[[str, random.Random], str | None]
EQUATION = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
NOTICE = re.compile(r"copyright|©|created using|made with|updated|toggle|javascript", re.I)
LETTERS = "abcdefghkmnpqrstuvwxyz"
GERMAN = "Der Wert der Funktion wird an jeder Stelle durch das Integral über den ganzen Bereich bestimmt."
INVENTED = (
    "This result was first proved in the nineteenth century and is widely used in engineering."
)


def prose_lines(text: str) -> list[str]:
    """Lines that are sentences of the matter beyond doubt: eight words, a full stop, no notice."""
    return [
        line.strip()
        for line in text.split("\n")
        if len(line.split()) >= 8 and line.strip().endswith(".") and not NOTICE.search(line)
        and line[:1] in " \t" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and "|" not in line
    ]  # fmt: skip


def _within(text: str, rng: random.Random, change: Callable[[str], str | None]) -> str | None:
    """The text with one of its equations changed."""
    found = list(EQUATION.finditer(text))
    rng.shuffle(found)
    for match in found:
        changed = change(match[0])
        if changed is not None and changed != match[0]:
            return text[: match.start()] + changed + text[match.end() :]
    return None


def _swapped(pattern: str, pairs: dict[str, str]) -> Made:
    def make(text: str, rng: random.Random) -> str | None:
        def change(span: str) -> str | None:
            inner = list(re.finditer(pattern, span[2:-2]))
            if not inner:
                return None
            at = rng.choice(inner)
            put = pairs[at[0].strip()]
            return span[: 2 + at.start()] + put + span[2 + at.end() :]

        return _within(text, rng, change)

    return make


def _number_in_equation(text: str, rng: random.Random) -> str | None:
    def change(span: str) -> str | None:
        inner = list(re.finditer(r"\d+", span))
        if not inner:
            return None
        at = rng.choice(inner)
        return span[: at.start()] + str(int(at[0]) + rng.randint(1, 9)) + span[at.end() :]

    return _within(text, rng, change)


def _symbol_in_equation(text: str, rng: random.Random) -> str | None:
    def change(span: str) -> str | None:
        inner = list(re.finditer(r"(?<![\\A-Za-z])[a-z](?![A-Za-z])", span[2:-2]))
        if not inner:
            return None
        at = rng.choice(inner)
        other = rng.choice([c for c in LETTERS if c != at[0]])
        return span[: 2 + at.start()] + other + span[2 + at.end() :]

    return _within(text, rng, change)


def _lost_equation(text: str, rng: random.Random) -> str | None:
    return _within(text, rng, lambda span: "")


def _lost_line_with_equation(text: str, rng: random.Random) -> str | None:
    lines = text.split("\n")
    having = [n for n, line in enumerate(lines) if EQUATION.search(line)]
    if not having:
        return None
    gone = rng.choice(having)
    return "\n".join(lines[:gone] + lines[gone + 1 :])


def _doubled_equation(text: str, rng: random.Random) -> str | None:
    return _within(text, rng, lambda span: f"{span} {span}")


def _bared_equation(text: str, rng: random.Random) -> str | None:
    return _within(text, rng, lambda span: span[2:-2] if len(span) > 8 else None)


def _invented_equation(text: str, rng: random.Random) -> str | None:
    return _after_a_line(text, rng, rf"Hence \({rng.choice(LETTERS)} = {rng.randint(11, 99)}q^2\).")


def _after_a_line(text: str, rng: random.Random, said: str) -> str | None:
    lines = prose_lines(text)
    if not lines:
        return None
    chosen = rng.choice(lines)
    return text.replace(chosen, f"{chosen} {said}", 1)


def _exchanged_equations(text: str, rng: random.Random) -> str | None:
    found = list(EQUATION.finditer(text))
    pairs = [(a, b) for a, b in pairwise(found) if a[0][2:-2] != b[0][2:-2]]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    return text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]


def _in_prose(text: str, rng: random.Random, change: Callable[[str], str | None]) -> str | None:
    lines = prose_lines(text)
    rng.shuffle(lines)
    for line in lines:
        changed = change(line)
        if changed is not None and changed.split() != line.split():
            return text.replace(line, changed, 1)
    return None


def _number_in_prose(text: str, rng: random.Random) -> str | None:
    def change(line: str) -> str | None:
        plain = EQUATION.sub("", line)
        found = re.search(r"(?<![\w.])\d+(?![\w.])", plain)
        return line.replace(found[0], str(int(found[0]) + 1), 1) if found else None

    return _in_prose(text, rng, change)


def _sign_in_code(text: str, rng: random.Random) -> str | None:
    found = [m for m in re.finditer(r"^>>>.*?( \+ | - |\*|==|<|>=)", text, re.MULTILINE)]
    if not found:
        return None
    at = rng.choice(found)
    put = {" + ": " - ", " - ": " + ", "*": "/", "==": "!=", "<": ">", ">=": "<="}[at[1]]
    return text[: at.start(1)] + put + text[at.end(1) :]


def _number_in_code(text: str, rng: random.Random) -> str | None:
    found = [m for m in re.finditer(r"^-?(\d+)\.\d+$|^>>>.*?(\d+)", text, re.MULTILINE)]
    if not found:
        return None
    at = rng.choice(found)
    which = 1 if at[1] else 2
    return text[: at.start(which)] + str(int(at[which]) + 1) + text[at.end(which) :]


def _lost_line_of_code(text: str, rng: random.Random) -> str | None:
    lines = text.split("\n")
    having = [n for n, line in enumerate(lines) if line.startswith(">>>")]
    if not having:
        return None
    gone = rng.choice(having)
    return "\n".join(lines[:gone] + lines[gone + 1 :])


def _negated(text: str, rng: random.Random) -> str | None:
    def change(line: str) -> str | None:
        return re.sub(r"\b(is|are|can|does|will)\b", r"\1 not", line, count=1)

    return _in_prose(text, rng, change)


def _other_word(text: str, rng: random.Random) -> str | None:
    def change(line: str) -> str | None:
        words = line.split(" ")
        places = [n for n, word in enumerate(words) if word.isalpha() and len(word) > 4]
        if not places:
            return None
        words[rng.choice(places)] = "banana"
        return " ".join(words)

    return _in_prose(text, rng, change)


def _lost_word(text: str, rng: random.Random) -> str | None:
    def change(line: str) -> str | None:
        words = line.split(" ")
        places = [n for n, word in enumerate(words) if 0 < n < len(words) - 1 and word.isalpha()]
        if not places:
            return None
        del words[rng.choice(places)]
        return " ".join(words)

    return _in_prose(text, rng, change)


def _lost_sentence(text: str, rng: random.Random) -> str | None:
    return _in_prose(text, rng, lambda line: "")


def _exchanged_sentences(text: str, rng: random.Random) -> str | None:
    lines = list(dict.fromkeys(prose_lines(text)))
    if len(lines) < 2:
        return None
    a, b = rng.sample(lines, 2)
    if a in b or b in a:
        return None
    return text.replace(a, "\0", 1).replace(b, a, 1).replace("\0", b, 1)


def _said_twice(text: str, rng: random.Random) -> str | None:
    lines = prose_lines(text)
    return None if not lines else _in_prose(text, rng, lambda line: f"{line}\n\n{line}")


def _in_a_circle(text: str, rng: random.Random) -> str | None:
    lines = prose_lines(text)
    return None if not lines else text.rstrip() + ("\n" + rng.choice(lines)) * 12


def _matter_ends(text: str) -> list[int]:
    return [m.end() for m in EQUATION.finditer(text)] + [
        text.index(line) + len(line) for line in prose_lines(text)
    ]


def _cut_anywhere(text: str, rng: random.Random) -> str | None:
    ends = _matter_ends(text)
    if not ends or max(ends) < 40:
        return None
    return text[: rng.randrange(20, max(ends) - 1)]


def _cut_at_a_paragraph(text: str, rng: random.Random) -> str | None:
    ends = _matter_ends(text)
    places = [m.start() for m in re.finditer(r"\n\n", text) if ends and m.start() < max(ends) - 1]
    return text[: rng.choice(places)] if places else None


def _begun_late(text: str, rng: random.Random) -> str | None:
    starts = [m.start() for m in EQUATION.finditer(text)]
    if not starts:
        return None
    return text[rng.randrange(min(starts) + 2, len(text)) :]


def _german_sentence(text: str, rng: random.Random) -> str | None:
    return _in_prose(text, rng, lambda line: GERMAN)


def _preamble(text: str, rng: random.Random) -> str | None:
    said = ["Here is the cleaned text:", "Sure! Below is the rewritten page.", "Cleaned text:", "**Answer**"]  # fmt: skip
    return f"{rng.choice(said)}\n\n{text}"


def _afterword(text: str, rng: random.Random) -> str | None:
    said = ["Let me know if you need anything else.", "Note: I removed the menus.", "I hope this helps!"]  # fmt: skip
    return f"{text}\n\n{rng.choice(said)}"


def _lost(pattern: str, put: str = "") -> Made:
    """One of what matches, or what stands in its place."""

    def make(text: str, rng: random.Random) -> str | None:
        found = list(re.finditer(pattern, text, re.MULTILINE))
        if not found:
            return None
        at = rng.choice(found)
        return text[: at.start()] + at.expand(put) + text[at.end() :]

    return make


def _instead(said: str) -> Made:
    return lambda text, rng: said if EQUATION.search(text) or prose_lines(text) else None


FAULTS: dict[str, Made] = {
    "equation dropped": _lost_equation,
    "line with an equation dropped": _lost_line_with_equation,
    "equation: sign": _swapped(r"[+-]", {"+": "-", "-": "+"}),
    "equation: relation": _swapped(r"=|<|>|\\leq? |\\geq? ", {"=": r"\neq ", "<": ">", ">": "<", r"\le": r"\ge ", r"\leq": r"\geq ", r"\ge": r"\le ", r"\geq": r"\leq "}),
    "equation: script": _swapped(r"[_^]", {"_": "^", "^": "_"}),
    "equation: Greek": _swapped(r"\\(?:alpha|beta|gamma|theta|phi|pi|mu|nu|omega)\b", {f"\\{g}": "\\sigma" for g in ("alpha", "beta", "gamma", "theta", "phi", "pi", "mu", "nu", "omega")}),
    "equation: number": _number_in_equation,
    "equation: symbol": _symbol_in_equation,
    "equation doubled": _doubled_equation,
    "equation without delimiters": _bared_equation,
    "equation invented": _invented_equation,
    "equations exchanged": _exchanged_equations,
    "prose: number": _number_in_prose,
    "prose: not": _negated,
    "prose: other word": _other_word,
    "prose: word dropped": _lost_word,
    "prose: sentence dropped": _lost_sentence,
    "prose: sentences exchanged": _exchanged_sentences,
    "prose: sentence invented": lambda text, rng: _after_a_line(text, rng, INVENTED),
    "prose: in German": _german_sentence,
    "code: sign": _sign_in_code,
    "code: number": _number_in_code,
    "code: line dropped": _lost_line_of_code,
    "code: function dropped": _lost(r"^def \w+\(.*\n(?:[ \t]+\S.*\n?)+"),
    "code: return dropped": _lost(r"^[ \t]+return .*$"),
    "code: command dropped": _lost(r"^\$ \S.*$"),
    "code: commented out": _lost(r"^(\w+ = [\w.]+)$", r"# \1"),
    "formula without delimiters dropped": _lost(r"^\w+\(\w\) = \w.*$"),
    "formula: sign at a line's end": _lost(r"=\n(?=[a-z]+\()", "=\n- "),
    "line with a number dropped": _lost(r"^Answer \d+$"),
    "short sentence with a number dropped": _lost(r"^So \w is \d+\.$"),
    "number joined": _lost(r"(\d\.) (?=\d)", r"\1"),
    "list item dropped": _lost(r"^[*•+] (?=[A-Za-z]+ [a-z])(?:[A-Za-z]+ ){11,}[a-z]+$"),
    "sentence like a notice dropped": _lost(r"^JavaScript (?!is |must )[a-z]+ [a-z ]+\.$"),
    "said twice": _said_twice,
    "in a circle": _in_a_circle,
    "cut anywhere": _cut_anywhere,
    "cut at a paragraph": _cut_at_a_paragraph,
    "begun late": _begun_late,
    "preamble": _preamble,
    "afterword": _afterword,
    "nothing": _instead(""),
    "refusal": _instead("I'm sorry, but I can't help with that."),
    "summary": _instead("The page explains a function, gives its definition and shows examples."),
    "German": _instead(f"{GERMAN} {GERMAN}"),
}  # fmt: skip


def _dollars(text: str, rng: random.Random) -> str:
    return EQUATION.sub(lambda m: f"${m[1].strip()}$" if m[1] else f"$${m[2]}$$", text)


def _reflowed(text: str, rng: random.Random) -> str:
    """Paragraphs at 80 characters; code as it is."""
    blocks = text.split("\n\n")
    return "\n\n".join(
        block if ">>>" in block or EQUATION.search(block) else
        "\n".join(textwrap.fill(line, 80, break_long_words=False, break_on_hyphens=False) for line in block.split("\n"))
        for block in blocks
    )  # fmt: skip


def _markdown(text: str, rng: random.Random) -> str:
    """Anchored headings with #, bullets as -, code in fences."""
    out = []
    for block in text.split("\n\n"):
        if block.endswith("¶") and "\n" not in block and "(" not in block:
            block = f"## {block[:-1].strip()}"
        elif ">>>" in block:
            block = f"```python\n{block}\n```"
        out.append(re.sub(r"^\s*[*+o] (?=[A-Za-z]{2})", "- ", block, flags=re.MULTILINE))
    return "\n\n".join(out)


def _typeset(text: str, rng: random.Random) -> str:
    return re.sub(r"(?<=[a-z])'(?=[a-z] )", "’", text).replace(" - ", " – ")


def _emphasis(text: str, rng: random.Random) -> str:
    made = _in_prose(text, rng, lambda line: re.sub(r"(?<= )([a-z]{5,})(?= )", r"**\1**", line, count=2))  # fmt: skip
    return made or text


INNOCENT: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda text, rng: text,
    "equations between dollars": _dollars,
    "lines broken anew": _reflowed,
    "Markdown": _markdown,
    "typographic signs": _typeset,
    "emphasis": _emphasis,
    "blanks": lambda text, rng: re.sub(r"[ \t]+", "  ", text),
}
"""Changes that are none; each may come together with the frame left out."""
