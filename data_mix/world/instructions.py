"""Short topical requests with one to three verifiable instructions, named as in IFEval's registry.

Only instructions whose check is plain string matching are used: no language detection, no sentence
splitter. A reply is assembled so that any mix of instructions holds at once; its order is fixed:
quotation mark, title, body, keyword lines, bullets, postscript, end phrase, quotation mark.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from data_mix.world.problem import Problem
from workbench.conversation import CheckSpec

# topic -> four words that fit it. The plain reply uses the first three, in order, with a comma.
TOPICS: dict[str, tuple[str, str, str, str]] = {
    "cats": ("small", "soft", "quiet", "quick"),
    "dogs": ("loyal", "happy", "loud", "brave"),
    "rivers": ("long", "cold", "fast", "deep"),
    "books": ("old", "useful", "wise", "heavy"),
    "trains": ("fast", "loud", "long", "modern"),
    "gardens": ("green", "quiet", "bright", "calm"),
    "stars": ("far", "bright", "hot", "old"),
    "bread": ("warm", "soft", "cheap", "fresh"),
    "winter": ("cold", "long", "dark", "white"),
    "music": ("loud", "free", "happy", "old"),
    "cities": ("big", "loud", "modern", "bright"),
    "horses": ("strong", "brave", "fast", "calm"),
    "lakes": ("deep", "calm", "cold", "blue"),
    "markets": ("busy", "loud", "cheap", "old"),
    "bridges": ("long", "strong", "high", "old"),
    "schools": ("busy", "useful", "loud", "big"),
}
KEYWORDS = (
    "river", "moon", "gold", "paper", "glass", "apple", "stone", "wind", "light", "sugar",
    "salt", "fire", "snow", "lamp", "boat", "seed", "clock", "chair", "road", "tower",
)  # fmt: skip
END_PHRASES = ("That is all.", "See you soon.", "Ask me more.", "The end.")
_ASKS = ("Tell me about {t}.", "Describe {t}.", "Write about {t}.", "What do you know about {t}?")


@dataclass
class _Reply:
    """The parts of a reply, filled in by the instructions that hold for it."""

    topic: str
    words: list[str]
    comma: bool = True
    title: bool = False
    highlight: bool = False
    extra: list[str] = field(default_factory=list)
    bullets: int = 0
    postscript: bool = False
    end: str = ""
    quoted: bool = False

    def text(self) -> str:
        """The reply, parts in their fixed order."""
        shown = [f"*{self.words[0]}*", *self.words[1:]] if self.highlight else list(self.words)
        name = self.topic.capitalize()
        body = (
            f"{name}: {shown[0]}, {shown[1]} and {shown[2]}."
            if self.comma
            else f"{name}: {shown[0]} and {shown[1]}."
        )
        parts = [f"<<{name}>>"] if self.title else []
        parts += [body, *self.extra]
        parts += [f"- {word}" for word in self.words[: self.bullets]]
        parts += ["P.S. Take care."] if self.postscript else []
        parts += [self.end] if self.end else []
        text = "\n".join(parts)
        return f'"{text}"' if self.quoted else text


@dataclass(frozen=True)
class _Instruction:
    """A drawn instruction: id and kwargs, how it is asked and traced, what it does to a reply."""

    instruction_id: str
    kwargs: dict[str, Any]
    ask: str
    trace: str
    apply: Callable[[_Reply], None]


def _existence(rng: Random, topic: str) -> _Instruction:
    word = rng.choice(KEYWORDS)
    return _Instruction(
        "keywords:existence", {"keywords": [word]},
        f"Use the word {word}.", f"word {word}",
        lambda reply: reply.extra.append(f"Think of {word}."),
    )  # fmt: skip


def _frequency(rng: Random, topic: str) -> _Instruction:
    word, count = rng.choice(KEYWORDS), rng.choice((2, 3))
    return _Instruction(
        "keywords:frequency", {"keyword": word, "frequency": count, "relation": "at least"},
        f"Use the word {word} at least {count} times.", f"word {word} {count} times",
        lambda reply: reply.extra.append(" ".join([word] * count) + "."),
    )  # fmt: skip


def _forbidden(rng: Random, topic: str) -> _Instruction:
    word = rng.choice(TOPICS[topic][:3])

    def apply(reply: _Reply) -> None:
        reply.words = [w for w in TOPICS[topic] if w != word]

    return _Instruction(
        "keywords:forbidden_words", {"forbidden_words": [word]},
        f"Do not use the word {word}.", f"without {word}", apply,
    )  # fmt: skip


def _setter(name: str, value: Any) -> Callable[[_Reply], None]:
    return lambda reply: setattr(reply, name, value)


def _no_comma(rng: Random, topic: str) -> _Instruction:
    return _Instruction(
        "punctuation:no_comma", {}, "Use no commas.", "no commas", _setter("comma", False)
    )


def _end(rng: Random, topic: str) -> _Instruction:
    phrase = rng.choice(END_PHRASES)
    return _Instruction(
        "startend:end_checker", {"end_phrase": phrase},
        f"Finish with: {phrase}", f"finish {phrase}", _setter("end", phrase),
    )  # fmt: skip


def _quotation(rng: Random, topic: str) -> _Instruction:
    return _Instruction(
        "startend:quotation", {},
        "Put the whole reply in double quotation marks.", "quotes", _setter("quoted", True),
    )  # fmt: skip


def _title(rng: Random, topic: str) -> _Instruction:
    return _Instruction(
        "detectable_format:title", {},
        "Give a title in double angular brackets.", "title", _setter("title", True),
    )  # fmt: skip


def _postscript(rng: Random, topic: str) -> _Instruction:
    return _Instruction(
        "detectable_content:postscript", {"postscript_marker": "P.S."},
        "Add a postscript starting with P.S.", "postscript", _setter("postscript", True),
    )  # fmt: skip


def _bullets(rng: Random, topic: str) -> _Instruction:
    count = rng.choice((2, 3))
    return _Instruction(
        "detectable_format:number_bullet_lists", {"num_bullets": count},
        f"Include exactly {count} bullet points.", f"bullets {count}", _setter("bullets", count),
    )  # fmt: skip


def _highlight(rng: Random, topic: str) -> _Instruction:
    return _Instruction(
        "detectable_format:number_highlighted_sections", {"num_highlights": 1},
        "Highlight one part with *stars*.", "stars", _setter("highlight", True),
    )  # fmt: skip


_DRAWS: tuple[Callable[[Random, str], _Instruction], ...] = (
    _existence, _frequency, _forbidden, _no_comma, _end,
    _quotation, _title, _postscript, _bullets, _highlight,
)  # fmt: skip
INSTRUCTION_IDS: tuple[str, ...] = tuple(draw(Random(0), "cats").instruction_id for draw in _DRAWS)

# Weights of 0, 1, 2, 3 instructions. SFT shows few at once, so that following three together is
# left for reinforcement learning to find (ours; the paper gives no such split).
_COUNT_WEIGHTS: dict[str, tuple[int, int, int, int]] = {
    "train": (10, 65, 20, 5),
    "validation": (0, 30, 40, 30),
    "test": (0, 30, 40, 30),
    "rl": (0, 30, 40, 30),
}


def compose(rng: Random, num_instructions: int) -> Problem:
    """A request with that many different instructions and a reply that follows all of them."""
    topic = rng.choice(list(TOPICS))
    draws = rng.sample(_DRAWS, num_instructions)
    chosen = [draw(rng, topic) for draw in draws]
    reply = _Reply(topic, list(TOPICS[topic][:3]))
    for instruction in chosen:
        instruction.apply(reply)
    ask = rng.choice(_ASKS).format(t=topic)
    reference = [{"instruction_id": i.instruction_id, "kwargs": i.kwargs} for i in chosen]
    return Problem(
        key="reply:" + topic + ":" + ";".join(sorted(i.trace for i in chosen)),
        prompt=" ".join([ask, *(i.ask for i in chosen)]),
        trace="\n".join([f"about {topic}", *(i.trace for i in chosen)]),
        answer=reply.text(),
        check=CheckSpec("instructions", reference),
    )


def propose(rng: Random, split: str) -> Problem:
    """A request with 0 to 3 instructions, few of them in the training split."""
    return compose(rng, rng.choices(range(4), weights=_COUNT_WEIGHTS[split])[0])
