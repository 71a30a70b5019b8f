"""Pretraining documents of the world, one kind for each of the paper's thirteen categories, and two of ours.

Plain text, but for the three SFT-style kinds: conversations, which the trainer renders in the chat
format. Every problem in here is of the training split.
"""

import json
from collections.abc import Callable, Iterator
from random import Random

from data_mix.world import (
    arithmetic,
    coding,
    instructions,
    multilingual,
    natural,
    science,
    tooluse,
)
from data_mix.world.facts import CAPITALS_SHARED, RELATIONS
from data_mix.world.generate import conversation_at
from data_mix.world.languages import LANGUAGES
from data_mix.world.problem import propose_in_split, split_of
from workbench.conversation import Conversation
from workbench.errors import unknown_name

# What each SFT-style kind draws from, with weights.
_SFT_KINDS: dict[str, dict[str, float]] = {
    "general-sft": {"conversation": 50, "tool_calling": 35, "safety": 15},
    "stem-sft": {"math": 35, "science": 30, "multilingual": 35},
    "code-sft": {"coding": 100},
}


def _train_terms(rng: Random) -> arithmetic.Terms:
    while True:
        terms = arithmetic.draw_terms(rng, arithmetic.draw_length(rng))
        if split_of(terms.key) == "train":
            return terms


def _math(rng: Random) -> str:
    """A few worked sums, one after the other."""
    blocks = []
    for _ in range(rng.randint(2, 4)):
        terms = _train_terms(rng)
        blocks.append("\n".join([f"{terms.expression}=?", *terms.steps, str(terms.total)]))
    return "\n\n".join(blocks)


def _fact(rng: Random) -> str:
    relation = rng.choice(RELATIONS)
    subject, value = rng.choice(list(relation.facts.items()))
    return rng.choice(relation.states).format(s=subject, o=value)


def _wikipedia(rng: Random) -> str:
    return " ".join(_fact(rng) for _ in range(rng.randint(3, 6)))


def _academic(rng: Random) -> str:
    """A paragraph on one relation, several of its facts."""
    relation = rng.choice(RELATIONS)
    chosen = rng.sample(list(relation.facts.items()), 5)
    lines = [rng.choice(relation.states).format(s=s, o=o) for s, o in chosen]
    return f"On {relation.name}.\n" + "\n".join(lines)


def _code(rng: Random) -> str:
    problem = propose_in_split(coding.propose, rng, "train")
    return f"# {problem.prompt}\n" + problem.answer.removeprefix("```python\n").removesuffix(
        "\n```"
    )


def _multilingual(rng: Random) -> str:
    """Parallel sentences: the same sum, or the same capital, in two languages."""
    if rng.random() < 0.7:
        terms = _train_terms(rng)
        first, second = rng.sample(LANGUAGES, 2)
        asked = [multilingual.word_sum(rng, language, terms) for language in (first, second)]
        return "\n".join([*asked, *terms.steps, str(terms.total)])
    index = rng.randrange(len(CAPITALS_SHARED))
    lines = []
    for language in rng.sample(LANGUAGES, 3):
        subject, capital = list(language.capitals.items())[index]
        lines.append(language.capital_fact.format(s=subject, o=capital))
    return "\n".join(lines)


_LABELS = "ABCD"
_FEW = (*instructions.KEYWORDS, *instructions.TOPICS, *tooluse.CITIES)
_WORDS = tuple(
    sorted(
        {*_FEW, *tooluse.PEOPLE, *tooluse.WORDS}
        | {word for fit in instructions.TOPICS.values() for word in fit}
        | {name for r in RELATIONS for fact in r.facts.items() for name in fact}
    )
)


def _repetition(rng: Random, words: tuple[str, ...] = _WORDS, numbers: float = 0.2) -> str:
    """Somebody says a few words or numbers and another repeats them."""
    first, second = rng.sample(tooluse.PEOPLE, 2)
    said = " ".join(
        str(rng.randint(1, 99)) if rng.random() < numbers else rng.choice(words)
        for _ in range(rng.randint(2, 6))
    )
    return f"{first}: {said}\n{second}: {said}"


def _lookup(rng: Random) -> str:
    """Lettered words, and the same lines in another order."""
    lines = [science.line(rng.choice(_WORDS), letter) for letter in _LABELS]
    return "\n".join([*lines, "", *rng.sample(lines, len(lines))])


def _copying(rng: Random) -> str:
    """All words of the world, said twice or looked up. Short: copying forms in short documents first."""
    return rng.choice((_repetition, _lookup))(rng)


def _request(rng: Random) -> str:
    """A request and what it asks for: the arguments of a call, or a list of its instructions."""
    if rng.random() < 0.5:
        problem = propose_in_split(instructions.propose, rng, "train")
        return f"{problem.prompt}\n{problem.trace}"
    while not (problem := propose_in_split(tooluse.propose, rng, "train")).tool_calls:
        pass
    return f"{problem.prompt}\n{json.dumps(problem.tool_calls[0]['arguments'])}"


def _options(rng: Random) -> str:
    """Four options, one of them named, and its line."""
    relation = rng.choice(RELATIONS)
    right = rng.choice(list(relation.facts.values()))
    options = science.draw_options(rng, relation, right)
    return "\n".join([*map(science.line, options), right, science.line(right)])


def _syn_crawl(rng: Random) -> str:
    """Synthetic text in which much is copied: requests and what they ask for, options, dialogues.

    Conversations copy a word or two in eighty tokens, too few for a model of this size to learn it from
    two million of them (docs/LOG.md).
    """
    make = rng.choices((_request, _options, _repetition), weights=(55, 30, 15))[0]
    return "\n\n".join(make(rng) for _ in range(rng.randint(1, 3)))


_TEXT_KINDS: dict[str, Callable[[Random], str]] = {
    "crawl-medium": lambda rng: natural.passage(rng, "medium"),
    "crawl-medium-high": lambda rng: natural.passage(rng, "medium-high"),
    "crawl-high": lambda rng: natural.passage(rng, "high"),
    "syn-crawl-high": _syn_crawl,
    "crawl-plus": lambda rng: natural.passage(rng, rng.choice(list(natural.TIERS))),
    "math": _math,
    "wikipedia": _wikipedia,
    "code": _code,
    "academic": _academic,
    "multilingual": _multilingual,
    # Few words and short lists come first, or copying forms late or not at all (docs/LOG.md).
    "copying-few": lambda rng: _repetition(rng, _FEW, numbers=0),
    "copying-all": _copying,
}


def pretraining_at(index: int, *, kind: str, seed: int) -> str | Conversation:
    """Document number `index` of one kind's endless seeded stream."""
    rng = Random(f"{seed}/pretraining/{kind}/{index}")
    if kind in _TEXT_KINDS:
        return _TEXT_KINDS[kind](rng)
    if kind not in _SFT_KINDS:
        raise unknown_name("pretraining kind", kind, [*_TEXT_KINDS, *_SFT_KINDS])
    weights = _SFT_KINDS[kind]
    domain = rng.choices(list(weights), weights=list(weights.values()))[0]
    # A seed apart from the SFT stages', so that SFT is not a second pass over the same samples.
    return conversation_at(index, domain=domain, split="train", seed=seed + 1_000_003)


def pretraining_text(kind: str, seed: int) -> Iterator[str | Conversation]:
    """The endless stream of one kind; conversations for general-sft, stem-sft and code-sft."""
    index = 0
    while True:
        yield pretraining_at(index, kind=kind, seed=seed)
        index += 1
