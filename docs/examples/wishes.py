"""An environment without tools: a question, and a wish about the form of the answer, which code can check.

Used by recipes/smollm2-instructions.yaml. A task's own solution is a text, made of a passage about the topic
(passages.jsonl), so SFT can learn from it before anything is reinforced. The wishes' words are in wish_words.json.
"""

import json
import random
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_PASSAGES = [
    json.loads(line) for line in (_HERE / "passages.jsonl").read_text("utf-8").splitlines()
]
_W = json.loads((_HERE / "wish_words.json").read_text("utf-8"))

Passage = dict[str, Any]
Made = tuple[
    str, dict[str, Any]
]  # a reply that grants the wish, and what its words and its check need


def _words(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip(string.punctuation))]


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


def _some(p: Passage, rng: random.Random, least: int = 1, most: int = 3) -> list[str]:
    return p["sentences"][: rng.randint(least, most)]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def options(p: Passage, rng: random.Random) -> Made:
    choices = rng.choice((["yes", "no"], ["yes", "no", "unsure"], ["no", "yes", "it depends"]))
    return p["yes_or_no"][1], {"choices": choices}


def template(p: Passage, rng: random.Random) -> Made:
    labels = rng.sample(_W["labels"], 3)
    filled = (f"{label}: {s}" for label, s in zip(labels, p["sentences"], strict=False))
    return " ".join(filled), {"labels": labels}


def word_lines(p: Passage, rng: random.Random) -> Made:
    return "\n".join(rng.choice(p["sentences"]).split()), {}


def no_spaces(p: Passage, rng: random.Random) -> Made:
    return "".join(w.capitalize() for w in _words(rng.choice(p["sentences"]))), {}


def title_case(p: Passage, rng: random.Random) -> Made:
    return " ".join(w.capitalize() for w in " ".join(_some(p, rng)).split()), {}


def marked_list(p: Passage, rng: random.Random) -> Made:
    marker = rng.choice(_W["markers"])
    return "\n".join(f"{marker} {s}" for s in _some(p, rng, 2, 4)), {"marker": marker}


def nested_list(p: Passage, rng: random.Random) -> Made:
    a, b, c, d = rng.sample(p["sentences"], 4)
    return f"* {a}\n  - {b}\n* {c}\n  - {d}", {}


def text_then_points(p: Passage, rng: random.Random) -> Made:
    a, b, c, d = rng.sample(p["sentences"], 4)
    return f"{a} {b}\n* {c}\n* {d}", {}


def italics(p: Passage, rng: random.Random) -> Made:
    first, *rest = p["sentences"]
    return f"<i>{first}</i> {' '.join(rest[: rng.randint(1, 3)])}", {}


def nested_quotes(p: Passage, rng: random.Random) -> Made:
    one, two, three = rng.sample(_W["names"], 3)
    core = rng.choice(p["sentences"]).rstrip(".")
    return f'{one} wrote: "{two} told me: \'{three} says "{core}" each day.\' I agree."', {}


def nested_brackets(p: Passage, rng: random.Random) -> Made:
    a, b, c, d, e = (s.rstrip(".") for s in rng.sample(p["sentences"], 5))
    return f"{a} ({b} [{c} {{{d} ({e} [as {rng.choice(_W['names'])} knows])}}])", {}


def emoji(p: Passage, rng: random.Random) -> Made:
    return " ".join(f"{s[:-1]} {rng.choice(_W['emoji'])}." for s in _some(p, rng)), {}


def stairs(p: Passage, rng: random.Random) -> Made:
    return "\n".join(" " * (2 * i) + s for i, s in enumerate(_some(p, rng, 2, 4))), {}


def length(p: Passage, rng: random.Random) -> Made:
    reply = " ".join(_some(p, rng, 2, 5))
    count = len(reply.split())
    return reply, {"low": count - rng.randint(0, 4), "high": count + rng.randint(0, 6)}


def numbers(p: Passage, rng: random.Random) -> Made:
    count = rng.randint(2, 12)
    run = ", ".join(map(str, range(1, count + 1)))
    return f"{rng.choice(p['sentences'])} Count: {run}.", {"count": count}


def placed_word(p: Passage, rng: random.Random) -> Made:
    place, word = rng.randint(1, 5), rng.choice(_W["words"])
    text = p["sentences"][:place]
    text[-1] = f"{text[-1][:-1]}, says the {word}."
    return " ".join(text), {"place": place, "word": word}


def counted_words(p: Passage, rng: random.Random) -> Made:
    chosen = rng.sample(_W["words"], rng.randint(2, 4))
    counts = dict(zip(chosen, (1, 2, 3, 5), strict=False))
    said = " ".join(f"{' '.join([w] * n).capitalize()}." for w, n in counts.items())
    return f"{rng.choice(p['sentences'])} {said}", {"counts": counts}


def names(p: Passage, rng: random.Random) -> Made:
    count, offered = rng.randint(2, 12), rng.sample(_W["names"], 20)
    reply = f"{rng.choice(p['sentences'])} So say {', '.join(offered[:count])}."
    return reply, {"count": count, "offered": offered}


def pronouns(p: Passage, rng: random.Random) -> Made:
    count = rng.randint(3, 20)
    run = "I told you that he knew her and we met them with my friends and your own."
    return " ".join([rng.choice(p["sentences"])] + [run] * -(-count // 8)), {"count": count}


def joining_words(p: Passage, rng: random.Random) -> Made:
    reply = (
        "It is old and new, small but strong, here or there, so simple yet rich, "
        f"for {p['topic']} is neither dull nor plain."
    )
    kinds = ["and", "but", "or", "so", "yet", "for", "nor"]
    return reply, {"count": rng.randint(3, 6), "kinds": kinds}


def all_marks(p: Passage, rng: random.Random) -> Made:
    a, b = (s.rstrip(".") for s in rng.sample(p["sentences"], 2))
    return f"About {p['topic']}, then: {a}; is it so?! Yes! {b}. Clear?", {}


def echo(p: Passage, rng: random.Random) -> Made:
    return "", {}  # the reply is the wish itself


def statements(p: Passage, rng: random.Random) -> Made:
    a, b = rng.sample(p["sentences"], 2)
    return f"{a} {b} {p['ask']}", {}


def balanced(p: Passage, rng: random.Random) -> Made:
    a, b = rng.sample(p["sentences"], 2)
    return f"{a} {p['ask']} {b[:-1]}!", {}


def same_ends(p: Passage, rng: random.Random) -> Made:
    sentence = rng.choice(p["sentences"]).rstrip(".")
    return f"{sentence}, says {_words(sentence)[0].lower()}.", {}


def palindromes(p: Passage, rng: random.Random) -> Made:
    count = rng.randint(3, 12)
    return f"{', '.join(rng.sample(_W['palindromes'], count)).capitalize()}.", {"count": count}


def few_repeats(p: Passage, rng: random.Random) -> Made:
    return rng.choice(p["sentences"]), {"most": rng.randint(4, 6)}


def dense(p: Passage, rng: random.Random) -> Made:
    said = (w for s in _some(p, rng) for w in _words(s))
    kept = [w for w in said if w.lower() not in _W["little"]]
    return f"{' '.join(kept).capitalize()}.", {"share": rng.randint(20, 60)}


def alphabet(p: Passage, rng: random.Random) -> Made:
    start, count = rng.randint(0, 16), rng.randint(4, 9)
    return f"{' '.join(_W['alphabet'][start : start + count]).capitalize()}.", {}


def table(p: Passage, rng: random.Random) -> Made:
    columns, count = rng.sample(_W["columns"], rng.randint(3, 5)), rng.randint(2, 6)
    rows = [",".join(f"{column}{row}" for column in columns) for row in range(1, count + 1)]
    return "\n".join([",".join(columns), *rows]), {"columns": columns, "count": count}


def _depth(text: str, pairs: dict[str, str]) -> int:
    """How deep brackets nest that are closed in order; 0 where they are not."""
    open_, deepest = list[str](), 0
    for sign in text:
        if sign in pairs:
            open_.append(pairs[sign])
            deepest = max(deepest, len(open_))
        elif sign in pairs.values() and (not open_ or open_.pop() != sign):
            return 0
    return 0 if open_ else deepest


def _list_holds(text: str) -> bool:
    points = re.split(r"^\s*\* ", text, flags=re.M)[1:]
    return len(points) > 1 and all(re.search(r"^\s*- ", point, re.M) for point in points)


def _points_follow(text: str) -> bool:
    before, *points = re.split(r"^\* ", text, flags=re.M)
    return len(_sentences(before)) > 1 and len(points) > 1


def _ends(text: str) -> Counter[str]:
    return Counter(s[-1] for s in _sentences(text))


def _in_order(text: str) -> bool:
    places = [string.ascii_lowercase.find(word[0].lower()) for word in _words(text)]
    return (
        len(places) > 1 and min(places) >= 0 and all(b == (a + 1) % 26 for a, b in pairwise(places))
    )


def _is_emoji(sign: str) -> bool:
    return sign != "" and unicodedata.category(sign) == "So"


def _csv_holds(text: str, columns: list[str], count: int) -> bool:
    rows = [[cell.strip() for cell in line.split(",")] for line in _lines(text)]
    return (
        rows[0] == columns and len(rows) == count + 1 and all(len(r) == len(columns) for r in rows)
    )


def _counted(text: str, counts: dict[str, int]) -> bool:
    said = Counter(word.lower() for word in _words(text))
    return all(said[word] == count for word, count in counts.items())


HOLDS: dict[Callable[..., Made], Callable[..., bool]] = {
    options: lambda t, choices: t.strip(" .").lower() in choices,
    template: lambda t, labels: bool(
        re.fullmatch(r"\s*" + r"\s*".join(rf"{label}:.*\w.*" for label in labels), t, re.S)
    ),
    word_lines: lambda t: len(_lines(t)) == len(t.split()),
    no_spaces: lambda t: not any(sign.isspace() for sign in t),
    title_case: lambda t: not any(word[0].islower() for word in _words(t)),
    marked_list: lambda t, marker: sum(line.startswith(marker) for line in _lines(t)) > 1,
    nested_list: _list_holds,
    text_then_points: _points_follow,
    italics: lambda t: bool(re.match(r"<(i|em)>[^<]+</\1>\s*\S", t)),
    nested_quotes: lambda t: bool(re.search(r"\"[^\"']*'[^\"']*\"[^\"']*\"[^\"']*'[^\"']*\"", t)),
    nested_brackets: lambda t: _depth(t, {"(": ")", "[": "]", "{": "}"}) >= 5,
    emoji: lambda t: all(_is_emoji(s.rstrip(" .!?")[-1:]) for s in _sentences(t)),
    stairs: lambda t: (
        len(_lines(t)) > 1
        and all(len(a) - len(a.lstrip()) < len(b) - len(b.lstrip()) for a, b in pairwise(_lines(t)))
    ),
    length: lambda t, low, high: low <= len(t.split()) <= high,
    numbers: lambda t, count: len(re.findall(r"\d+", t)) == count,
    placed_word: lambda t, place, word: (
        word in [w.lower() for s in _sentences(t)[place - 1 : place] for w in _words(s)]
    ),
    counted_words: _counted,
    names: lambda t, count, offered: len(set(_words(t)) & set(offered)) >= count,
    pronouns: lambda t, count: sum(word.lower() in _W["pronouns"] for word in _words(t)) >= count,
    joining_words: lambda t, count, kinds: (
        len({w.lower() for w in _words(t)} & set(kinds)) >= count
    ),
    all_marks: lambda t: "?!" in t and set(".,!?;:") <= set(t.replace("?!", "", 1)),
    echo: lambda t, exactly: t.strip() == exactly,
    statements: lambda t: _ends(t)["?"] > 0 and _ends(t)["."] == 2 * _ends(t)["?"],
    balanced: lambda t: _ends(t)["."] == _ends(t)["?"] == _ends(t)["!"] > 0,
    same_ends: lambda t: all(
        _words(line)[0].lower() == _words(line)[-1].lower() for line in _lines(t) if _words(line)
    ),
    palindromes: lambda t, count: (
        sum(len(w) > 4 and w.lower() == w.lower()[::-1] for w in _words(t)) >= count
    ),
    few_repeats: lambda t, most: (
        max(Counter(w.lower() for w in _words(t)).values(), default=0) <= most
    ),
    dense: lambda t, share: (
        100 * sum(w.lower() in _W["little"] for w in _words(t)) <= share * len(_words(t))
    ),
    alphabet: _in_order,
    table: _csv_holds,
}
KINDS = {make.__name__: (make, holds) for make, holds in HOLDS.items()}


class Wishes:
    """Tasks without end; every fifth passage, with its questions, is held out."""

    def tasks(self, split: str, seed: int) -> Iterator[dict[str, Any]]:
        passages = [p for i, p in enumerate(_PASSAGES) if (i % 5 == 4) == (split != "train")]
        rng = random.Random(f"{split}-{seed}")
        while True:
            for name in rng.sample(list(KINDS), len(KINDS)):
                yield self._task(name, rng.choice(passages), rng)

    def _task(self, name: str, p: Passage, rng: random.Random) -> dict[str, Any]:
        reply, args = KINDS[name][0](p, rng)
        wish = rng.choice(_W["wishes"][name]).format(**_shown(args))
        if name == "echo":
            reply, args = wish, {"exactly": wish}
        asked = p["yes_or_no"][0]
        if name != "options":
            request = rng.choice(_W["requests"])
            asked = request.format(**{**p, "passage": " ".join(p["sentences"])})
        prompt = " ".join(rng.sample([asked, wish], 2))
        return {"prompt": prompt, "kind": name, "reply": reply, "args": args}

    def reset(self, task: dict[str, Any]) -> None:
        self.task, self.said = task, ""

    def step(self, reply: Any) -> None:
        self.said = reply.answer

    def verify(self) -> bool:
        holds = KINDS[self.task["kind"]][1]
        return bool(_words(self.said)) and bool(holds(self.said, **self.task["args"]))

    def solve(self) -> list[str]:
        return [self.task["reply"]]


def _shown(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the wish says them."""
    shown = {k: ", ".join(v) if isinstance(v, list) else v for k, v in args.items()}
    if "choices" in args:
        shown["choices"] = "/".join(args["choices"])
    if "labels" in args:
        shown["form"] = " ".join(f"{label}: [{label.lower()}]" for label in args["labels"])
    if "counts" in args:
        shown["asked"] = ", ".join(f"{word} {n} times" for word, n in args["counts"].items())
    return shown
