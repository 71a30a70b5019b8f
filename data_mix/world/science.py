"""Multiple choice with four options over the fact base: recall the fact, go through the options."""

from random import Random

from data_mix.world.facts import RELATIONS, Relation
from data_mix.world.problem import Problem
from workbench.conversation import CheckSpec

LETTERS = "ABCD"


def draw_options(rng: Random, relation: Relation, right: str) -> list[str]:
    """Four different answers of the relation in random order, `right` among them."""
    others = sorted({o for o in relation.facts.values() if o != right})
    options = [right, *rng.sample(others, 3)]
    rng.shuffle(options)
    return options


def options_block(options: list[str]) -> str:
    """`A) Fe` and so on, one line each."""
    return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=True))


def look_through(options: list[str], right: str) -> str:
    """The options in turn up to the right one, each with its verdict, one line each.

    A small model that is to name the letter of a word at once stays at chance; read line by line, each
    step is a copy and a comparison.

    >>> look_through(["nose", "tongue", "eye", "lung"], "tongue")
    'A) nose: no\\nB) tongue: yes'
    """
    place = options.index(right)
    lines = options_block(options).splitlines()
    return "\n".join([*(f"{line}: no" for line in lines[:place]), f"{lines[place]}: yes"])


def choice_key(relation: Relation, subject: str, options: list[str]) -> str:
    """What is asked and what is offered where; the wording is not part of it."""
    return f"choice:{relation.name}:{subject}:{'|'.join(options)}"


def propose(rng: Random, split: str) -> Problem:
    """A question on one fact. Held-out: the option list, not the fact (facts must be seen once)."""
    relation = rng.choice(RELATIONS)
    subject, right = rng.choice(list(relation.facts.items()))
    options = draw_options(rng, relation, right)
    letter = LETTERS[options.index(right)]
    return Problem(
        key=choice_key(relation, subject, options),
        prompt=f"{rng.choice(relation.asks).format(s=subject)}\n{options_block(options)}",
        trace=f"{relation.states[0].format(s=subject, o=right)}\n{look_through(options, right)}",
        answer=letter,
        check=CheckSpec("choice", letter, {"num_choices": 4}),
    )
