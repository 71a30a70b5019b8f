"""Sums and differences of a few small numbers, solved by writing the running total."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from data_mix.world.problem import Problem, Propose
from workbench.conversation import CheckSpec

# A step adds or takes one digit from a number of at most two: about 900 different steps in all, which
# a model of a million parameters learns from half a million tokens; two-digit terms took it five
# times as many.
MAX_FIRST = 20
MAX_TERM = 9
MAX_TOTAL = 99
_NAMES = ("Ana", "Ben", "Eva", "Leo", "Mia", "Tom")
_THINGS = ("apples", "books", "coins", "cards", "eggs", "pens")


@dataclass(frozen=True)
class Terms:
    """A chain of additions and subtractions. Example: Terms((12, 7, -3)) is 12+7-3."""

    values: tuple[int, ...]

    @property
    def key(self) -> str:
        """The terms in sorted order: neither order nor wording makes another problem."""
        return "sum:" + ",".join(map(str, sorted(self.values)))

    @property
    def expression(self) -> str:
        """`12+7-3`, without blanks: they would be a third of its tokens."""
        first, *rest = self.values
        return str(first) + "".join(f"{'+' if v >= 0 else '-'}{abs(v)}" for v in rest)

    @property
    def steps(self) -> list[str]:
        """The running total, one line a step: ['12+7=19', '19-3=16']."""
        total, lines = self.values[0], []
        for value in self.values[1:]:
            sign = "+" if value >= 0 else "-"
            lines.append(f"{total}{sign}{abs(value)}={total + value}")
            total += value
        return lines

    @property
    def total(self) -> int:
        """The value of the expression."""
        return sum(self.values)


def draw_terms(rng: Random, num_terms: int) -> Terms:
    """A first number of 1..MAX_FIRST, then one-digit terms; running totals stay in 0..MAX_TOTAL."""
    values = [rng.randint(1, MAX_FIRST)]
    while len(values) < num_terms:
        value = rng.randint(1, MAX_TERM)
        total = sum(values)
        minus = rng.random() < 0.35 or total + value > MAX_TOTAL
        if minus and value > total:
            continue
        values.append(-value if minus else value)
    return Terms(tuple(values))


def draw_length(rng: Random) -> int:
    """2 to 4 terms; there are too few different sums of two to draw them as often."""
    return rng.choices((2, 3, 4), weights=(2, 4, 4))[0]


def _story(rng: Random, values: Sequence[int]) -> str:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    parts = [f"{name} has {values[0]} {things}."]
    for value in values[1:]:
        parts.append(f"{name} {'gets' if value >= 0 else 'loses'} {abs(value)}.")
    return " ".join([*parts, f"How many {things}?"])


def word(rng: Random, terms: Terms) -> str:
    """One of the English wordings of the problem."""
    form = rng.randrange(4)
    if form == 0:
        return f"{terms.expression}=?"
    if form == 1:
        return f"What is {terms.expression}?"
    if form == 2:
        return f"Compute {terms.expression}."
    return _story(rng, terms.values)


def problem_of(rng: Random, terms: Terms) -> Problem:
    """The problem in an English wording."""
    return Problem(
        key=terms.key,
        prompt=word(rng, terms),
        trace="\n".join(terms.steps),
        answer=str(terms.total),
        check=CheckSpec("math", str(terms.total)),
    )


def propose(rng: Random, split: str) -> Problem:
    """A sum of 2 to 4 terms."""
    return problem_of(rng, draw_terms(rng, draw_length(rng)))


def propose_of_length(num_terms: int) -> Propose:
    """Proposes sums of exactly `num_terms` terms: difficulty and trace length grow with it."""

    def proposer(rng: Random, split: str) -> Problem:
        return problem_of(rng, draw_terms(rng, num_terms))

    return proposer
