"""Multiple choice with four options over the fact base, each labelled by its initial: recall the fact, name it.

A letter that is only a place in the list would have to be looked up by its option, which a model of a
million parameters does not learn from two million tokens (docs/LOG.md); an initial follows from the fact.
"""

from collections.abc import Iterable
from random import Random

from data_mix.world.facts import RELATIONS, Relation
from data_mix.world.problem import Problem
from workbench.conversation import CheckSpec

OPTIONS = 4
# Any letter may be a label.
CHOICE = {"num_choices": 26}


def label(text: str) -> str:
    """The initial of an option.

    >>> label("tongue")
    'T'
    """
    return text[0].upper()


def draw_options(rng: Random, relation: Relation, right: str) -> list[str]:
    """Four answers of the relation with different initials in random order, `right` among them."""
    others = sorted(set(relation.facts.values()))
    return rng.sample(told_apart([right, *rng.sample(others, len(others))]), OPTIONS)


def told_apart(texts: Iterable[str]) -> list[str]:
    """The first options whose labels differ, as many as a question has.

    >>> told_apart(["Rome", "Riga", "Lima", "Oslo", "Paris", "Vienna"])
    ['Rome', 'Lima', 'Oslo', 'Paris']
    """
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(label(text), text)
    return list(found.values())[:OPTIONS]


def line(text: str, letter: str = "") -> str:
    """An option as the list has it: `F) Fe`. letter: where it is not the text's own initial."""
    return f"{letter or label(text)}) {text}"


def choice_key(relation: Relation, subject: str, options: list[str]) -> str:
    """What is asked and what is offered where; the wording is not part of it."""
    return f"choice:{relation.name}:{subject}:{'|'.join(options)}"


def propose(rng: Random, split: str) -> Problem:
    """A question on one fact. Held-out: the option list, not the fact (facts must be seen once)."""
    relation = rng.choice(RELATIONS)
    subject, right = rng.choice(list(relation.facts.items()))
    options = draw_options(rng, relation, right)
    asked = rng.choice(relation.asks).format(s=subject)
    return Problem(
        key=choice_key(relation, subject, options),
        prompt="\n".join([asked, *map(line, options)]),
        trace=f"{relation.states[0].format(s=subject, o=right)}\n{line(right)}",
        answer=label(right),
        check=CheckSpec("choice", label(right), CHOICE),
    )
